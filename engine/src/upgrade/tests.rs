use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output};

use super::check::verdict;
use super::handover::{environment, understood};
use super::{Accepted, Candidate, Checked, Handover, Refused, check};
use crate::admin::Answer;

const LAYOUT: u32 = 7;

fn output(code: i32, stdout: &str, stderr: &str) -> Output {
    Output {
        status: ExitStatus::from_raw(code << 8),
        stdout: stdout.into(),
        stderr: stderr.into(),
    }
}

fn refused(code: i32, stdout: &str, stderr: &str) -> String {
    let refused = verdict(&output(code, stdout, stderr), LAYOUT).unwrap_err();
    match refused.answer(Path::new("/new/weft")) {
        Answer::NotUpgraded(refused) => {
            assert_eq!(refused.binary, "/new/weft");
            refused.reason
        }
        Answer::Refused(faults) => faults[0].to_string(),
        other => panic!("{other:?}"),
    }
}

fn good() -> String {
    let checked = Checked {
        accepted: Accepted {
            pods: 3,
            services: 2,
        },
        version: "9.9.9".into(),
        map_layout: Some(LAYOUT),
    };
    serde_json::to_string(&checked).unwrap()
}

#[test]
fn a_program_that_says_what_it_must_is_taken() {
    let version = verdict(&output(0, &good(), "warnings, say"), LAYOUT).unwrap();
    assert_eq!(version, "9.9.9");
}

#[test]
fn another_layout_is_refused_with_what_to_do_instead() {
    let other = good().replace("7", "8");
    let reason = refused(0, &other, "");
    assert!(
        reason.contains("map layout 8") && reason.contains("has 7"),
        "{reason}"
    );
    assert!(reason.contains("Stop this node process"), "{reason}");
}

#[test]
fn a_program_that_does_not_know_of_layouts_is_refused() {
    let old = r#"{ "accepted": { "pods": 3, "services": 2 } }"#;
    for said in [old, "accepted: 3 pods, 2 services", "{}", ""] {
        let reason = refused(0, said, "");
        assert!(
            reason.contains("does not say which layout"),
            "{said}: {reason}"
        );
    }
}

#[test]
fn faults_of_the_configuration_come_as_those_of_a_reload() {
    let said = r#"{"refused":[{"file":"node.toml","line":3,"key":"workers.burst","reason":"no"}]}"#;
    assert_eq!(refused(3, said, ""), "node.toml:3: workers.burst: no");
}

#[test]
fn a_check_that_fails_is_quoted() {
    for code in [1, 2, 3] {
        let reason = refused(code, "", "weft: cannot load the BPF programs\n");
        assert!(
            reason.contains(&format!("exit status: {code}"))
                && reason.ends_with("cannot load the BPF programs"),
            "{reason}"
        );
    }
    let killed = Output {
        status: ExitStatus::from_raw(9),
        ..output(0, &good(), "")
    };
    assert!(matches!(
        verdict(&killed, LAYOUT),
        Err(Refused::Failed { .. })
    ));
}

/// One after another, since a program that is just being written cannot be executed, and a child of a test beside this
/// one may hold it open for a moment.
#[test]
fn programs_are_looked_at_and_asked() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let ask = |path: &Path| {
        let files = [PathBuf::from("-a.toml"), PathBuf::from("b.toml")];
        runtime.block_on(check(path, &files, LAYOUT))
    };
    let reason = |path: &Path| ask(path).unwrap_err().to_string();
    let program = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        path
    };

    let missing = reason(&directory.path().join("missing"));
    assert!(missing.starts_with("cannot be found"), "{missing}");
    assert_eq!(reason(directory.path()), "is not a file");
    let closed = program("closed", "#!/bin/sh\n");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(reason(&closed), "is not executable");
    let other = reason(&program("other-machine", "\x7fELF\x02\x01\x01"));
    assert!(other.starts_with("cannot be started"), "{other}");

    let good = good();
    let words = format!(
        "#!/bin/sh\n[ \"$*\" = 'check --json --programs -- -a.toml b.toml' ] || exit 1\necho '{good}'\n"
    );
    let candidate = ask(&program("good", &words)).unwrap();
    let expected = Candidate {
        path: directory.path().join("good"),
        version: "9.9.9".into(),
    };
    assert_eq!(candidate, expected);
    let changing = program(
        "changing",
        &format!("#!/bin/sh\necho '{good}'\necho >>\"$0\"\n"),
    );
    assert!(matches!(ask(&changing), Err(Refused::Changed)));
    let endless = program("endless", "#!/bin/sh\nexec yes\n");
    assert!(matches!(ask(&endless), Err(Refused::Failed { .. })));
}

#[test]
fn what_is_handed_over_is_for_one_process() {
    let handover = Handover {
        pid: 42,
        id: 1,
        version: "0.1.0".into(),
        failed: Some("why \"not\"".into()),
        ..Handover::default()
    };
    let told = OsString::from(serde_json::to_string(&handover).unwrap());
    assert_eq!(understood(&told, 42), Some(handover));
    assert_eq!(understood(&told, 43), None, "a child of it");
    assert_eq!(understood(OsStr::new("yes"), 42), None);
    // Another version may say less, or more.
    let short = understood(OsStr::new(r#"{"pid":42,"colour":"red"}"#), 42).unwrap();
    assert_eq!((short.pid, short.failed), (42, None));
}

#[test]
fn the_environment_is_the_same_but_for_what_is_handed_over() {
    let before = [("A", "1=2"), ("WEFT_UPGRADE", "old"), ("B", "")];
    let before = before.map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let after = environment(before.into_iter(), "new");
    assert_eq!(after, ["A=1=2", "B=", "WEFT_UPGRADE=new"]);
}
