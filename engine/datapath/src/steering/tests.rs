use super::*;

const DOCUMENT: &str = include_str!("../../../../docs/steering.md");
const HEAD: &str = "## What an enrolled pod sends\n";

#[test]
fn the_document_parses_and_has_both_sections() {
    let rows = parse(DOCUMENT).unwrap();
    assert!(rows.iter().filter(|row| row.hook == Hook::FromPod).count() >= 30);
    assert!(rows.iter().filter(|row| row.hook == Hook::ToPod).count() >= 5);
}

#[test]
fn no_two_rows_say_the_same() {
    let rows = parse(DOCUMENT).unwrap();
    for (index, a) in rows.iter().enumerate() {
        for b in &rows[index + 1..] {
            let key = |row: &Row| {
                (
                    row.hook,
                    row.source,
                    row.destination,
                    row.opens,
                    row.entry,
                    row.enrolment,
                )
            };
            assert_ne!(key(a), key(b), "lines {} and {}", a.line, b.line);
        }
    }
}

#[test]
fn what_is_not_asked_is_not_punted() {
    for row in parse(DOCUMENT).unwrap() {
        assert_eq!(
            row.engine == EngineVerdict::NotAsked,
            row.bpf != BpfVerdict::Punt,
            "line {}",
            row.line
        );
    }
}

#[test]
fn an_unknown_value_is_refused_in_every_column() {
    let good = [
        "enrolled pod",
        "service port",
        "yes",
        "none",
        "grace",
        "punt",
        "deliver",
        "because",
    ];
    let table = |cells: &[&str]| format!("{HEAD}| {} |", cells.join(" | "));
    assert_eq!(parse(&table(&good)).unwrap().len(), 1);
    for column in 0..7 {
        let mut cells = good;
        cells[column] = "perhaps";
        let error = parse(&table(&cells)).unwrap_err();
        assert!(
            matches!(&error, ParseError::Value { line: 2, value, .. } if value == "perhaps"),
            "{error}"
        );
    }
    assert_eq!(
        parse(&table(&good[..7])).unwrap_err(),
        ParseError::Cells { line: 2, cells: 7 }
    );
    assert_eq!(
        parse("| a | b | c | d | e | f | g | h |").unwrap_err(),
        ParseError::Section { line: 1 }
    );
    for verdict in ["drop", "drop nothing", "kernel nowhere", "deliver it"] {
        let mut cells = good;
        cells[6] = verdict;
        assert!(parse(&table(&cells)).is_err(), "{verdict}");
    }
}
