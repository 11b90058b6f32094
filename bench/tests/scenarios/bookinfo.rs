//! The bookinfo application, entered through an ingress (ING-01).

use crate::fixture::with_weft;
use anyhow::{Result, ensure};
use weft_lab::bookinfo::{Bookinfo, JASON};
use weft_lab::config::Config;
use weft_lab::lab::Lab;
use weft_lab::weft::Weft;

#[test]
fn ing01_bookinfo_is_served_through_an_ingress_and_reviews_are_split_and_switched_live()
-> Result<()> {
    with_weft(|| {
        let mut lab = Lab::new()?;
        let client = lab.pod("client")?;
        let bookinfo = Bookinfo::start(std::slice::from_mut(&mut lab))?;
        let config = |first: &str| -> Result<Config> {
            let mut config = Config::new();
            config.enrol(&client, "client");
            bookinfo.configure(&mut config, 0, first)?;
            Ok(config)
        };
        let weft = Weft::start(&lab, &config("")?)?;
        let versions = bookinfo.ask(&client, 150, &[])?;
        // 50 each are expected, with a standard deviation of 5.8.
        let fair = versions.values().all(|count| count.abs_diff(50) <= 18);
        ensure!(versions.len() == 3 && fair, "{versions:?}");
        weft.reload(&config(JASON)?)?;
        let jason = bookinfo.ask(&client, 20, &["-H", "end-user: jason"])?;
        ensure!(jason.get("v3") == Some(&20), "{jason:?}");
        let others = bookinfo.ask(&client, 60, &["-H", "end-user: kate"])?;
        ensure!(others.len() == 3, "{others:?}");
        weft.audit().map(drop)
    })
}
