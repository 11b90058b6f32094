//! The report as one HTML file that needs nothing else.

use super::report::{Report, ScenarioReport};
use anyhow::{Result, anyhow};
use plotters::prelude::*;
use std::fmt::Write;

/// Plot size in pixels.
const SIZE: (u32, u32) = (640, 300);
/// The colour of Weft's paths and of the others.
const COLOURS: [RGBColor; 2] = [RGBColor(0x1b, 0x6e, 0xc2), RGBColor(0x9a, 0xa5, 0xb1)];

/// The whole page.
pub fn render(report: &Report) -> Result<String> {
    let machine = &report.machine;
    let mut page = String::from(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Weft benchmarks</title>\n\
         <style>body{font:15px/1.45 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;color:#222}\
         table{border-collapse:collapse}td,th{padding:.25em .8em;border-bottom:1px solid #ddd;text-align:right}\
         td:first-child,th:first-child,td:last-child,th:last-child{text-align:left}svg{max-width:100%;height:auto}</style></head><body>\n\
         <h1>Weft against the kernel's paths</h1>\n",
    );
    writeln!(
        page,
        "<p>{} cores, {}, {} MiB, Linux {}. Bars are medians, dots are single runs; the runs of all paths \
         took turns. A figure is worth something only beside the others of the same report.</p>",
        machine.cores,
        escape(&machine.cpu),
        machine.memory_mib,
        escape(&machine.kernel)
    )?;
    if report.quick {
        page.push_str(
            "<p><b>A quick run, to see that everything works: its figures mean nothing.</b></p>\n",
        );
    }
    for scenario in &report.scenarios {
        section(&mut page, scenario)?;
    }
    page.push_str("</body></html>\n");
    Ok(page)
}

fn section(page: &mut String, scenario: &ScenarioReport) -> Result<()> {
    let better = if scenario.higher_is_better {
        "more is better"
    } else {
        "less is better"
    };
    write!(
        page,
        "<h2>{}</h2>\n<p>{} ({}, {better}).</p>\n{}\n",
        escape(&scenario.id),
        escape(&scenario.about),
        escape(&scenario.unit),
        plot(scenario)?
    )?;
    page.push_str("<table><tr><th>path</th><th>median</th><th>min</th><th>max</th><th>cpu &micro;s/op</th><th>placement</th></tr>\n");
    for (path, figures) in &scenario.paths {
        writeln!(
            page,
            "<tr><td>{}</td><td>{:.3}</td><td>{:.3}</td><td>{:.3}</td><td>{:.2}</td><td>{}</td></tr>",
            escape(path),
            figures.median,
            figures.min,
            figures.max,
            figures.cpu_us_per_op,
            escape(&figures.placement)
        )?;
    }
    page.push_str("</table>\n");
    for quotient in scenario.quotients() {
        writeln!(page, "<p>{}</p>", escape(&quotient))?;
    }
    Ok(())
}

/// One bar a path, and every run as a dot.
fn plot(scenario: &ScenarioReport) -> Result<String> {
    let mut svg = String::new();
    let names: Vec<&String> = scenario.paths.keys().collect();
    let top = scenario
        .paths
        .values()
        .map(|path| path.max)
        .fold(0.0, f64::max)
        * 1.1;
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let draw = |error: DrawingAreaErrorKind<_>| anyhow!("cannot draw {}: {error}", scenario.id);
        root.fill(&WHITE).map_err(draw)?;
        let positions = (0..names.len().max(1)).into_segmented();
        let mut chart = ChartBuilder::on(&root)
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(52)
            .build_cartesian_2d(positions, 0.0..if top > 0.0 { top } else { 1.0 })
            .map_err(draw)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .y_desc(scenario.unit.as_str())
            .label_style(("sans-serif", 14))
            .x_label_formatter(&|position| match position {
                SegmentValue::CenterOf(index) => names
                    .get(*index)
                    .map(|name| (*name).clone())
                    .unwrap_or_default(),
                _ => String::new(),
            })
            .draw()
            .map_err(draw)?;
        for (index, (name, figures)) in scenario.paths.iter().enumerate() {
            let colour = COLOURS[usize::from(!name.starts_with("weft"))];
            let corners = [
                (SegmentValue::Exact(index), 0.0),
                (SegmentValue::Exact(index + 1), figures.median),
            ];
            let mut bar = Rectangle::new(corners, colour.filled());
            bar.set_margin(0, 0, 40, 40);
            chart.draw_series([bar]).map_err(draw)?;
            let dots = figures.runs.iter().map(|run| {
                Circle::new(
                    (SegmentValue::CenterOf(index), *run),
                    3,
                    BLACK.mix(0.6).filled(),
                )
            });
            chart.draw_series(dots).map_err(draw)?;
        }
        root.present().map_err(draw)?;
    }
    Ok(svg)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;
    use crate::measure::report::Samples;
    use crate::measure::{Sample, Scenario};

    #[test]
    fn the_page_holds_its_plots_and_loads_nothing() {
        let sample = Sample::rate(1.0, 1.0);
        let scenario = Scenario::find("l4-established").unwrap();
        let mut samples = Samples::new();
        samples.insert((scenario.workload, "weft-user", "w"), vec![sample.clone()]);
        samples.insert((scenario.workload, "iptables", "k"), vec![sample]);
        let page = render(&Report::new(Machine::this(), &[scenario], &samples, true)).unwrap();
        assert!(page.contains("<svg") && page.contains("weft-user") && page.contains("</html>"));
        assert!(page.contains("figures mean nothing"), "it was a quick run");
        assert!(!page.contains("<script") && !page.contains("<link") && !page.contains("src="));
    }
}
