//! The JUnit XML report for continuous integration, with one test case for each cell.
//!
//! A cell that was not run counts as skipped. If a cell failed several times, the report has its
//! first failure.

use std::fmt::Write;

use harness::xml::escaped;

use super::{
    report::full,
    tally::{Failure, Tally},
};

/// Formats the report.
pub fn junit(tally: &Tally) -> String {
    let suite = escaped(&tally.what);
    // A failure outside any cell is a test case as well, so that no failure is missing here.
    let strays: Vec<_> =
        tally.failures.iter().filter(|failure| !tally.cells.contains_key(&failure.cell)).collect();
    let failing = |name: &String| tally.failures.iter().find(|failure| failure.cell == *name);
    let failed = tally.cells.keys().filter(|name| failing(name).is_some()).count() + strays.len();
    let tests = tally.cells.len() + strays.len();
    let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned();
    let _ = writeln!(
        text,
        "<testsuites><testsuite name=\"ouroboros.{suite}\" tests=\"{tests}\" \
         failures=\"{failed}\" errors=\"0\" skipped=\"{}\" time=\"{:.3}\">",
        tally.left_out(),
        tally.seconds
    );
    let _ = writeln!(text, "<properties>");
    for (name, value) in [
        ("kernel", &tally.kernel),
        ("commit", &tally.commit),
        ("qemu", &tally.qemu),
        ("parts", &tally.parts.join("; ")),
    ] {
        let _ = writeln!(text, "<property name=\"{name}\" value=\"{}\"/>", escaped(value));
    }
    let _ = writeln!(text, "</properties>");
    for (name, logs) in &tally.cells {
        let _ = write!(
            text,
            "<testcase classname=\"ouroboros.{suite}\" name=\"{}\" time=\"{:.3}\">",
            escaped(name),
            logs.seconds
        );
        match failing(name) {
            Some(failure) => write_failure(&mut text, failure),
            None if logs.runs == 0 => text += "<skipped/>",
            None => {}
        }
        text += "</testcase>\n";
    }
    for failure in strays {
        let _ = write!(
            text,
            "<testcase classname=\"ouroboros.{suite}\" name=\"{}\">",
            escaped(&failure.cell)
        );
        write_failure(&mut text, failure);
        text += "</testcase>\n";
    }
    text + "</testsuite></testsuites>\n"
}

fn write_failure(text: &mut String, failure: &Failure) {
    let _ = write!(
        text,
        "<failure message=\"{}\">{}</failure>",
        escaped(&failure.why),
        escaped(&full(failure))
    );
}

#[cfg(test)]
mod tests {
    use harness::xml::well_formed;

    use super::{
        super::tally::tests::{failure, tally},
        *,
    };

    #[test]
    fn it_is_well_formed_whatever_a_console_says() {
        let mut whole = tally("seed 0x1", 3, Some(failure()));
        whole.choose("vhe-1cpu-gicv3-modern-hot-same");
        whole.failures.push(Failure { cell: "elsewhere".into(), ..failure() });
        let xml = junit(&whole);
        well_formed(&xml, &[]).unwrap();
        assert!(xml.contains("tests=\"5\" failures=\"2\" errors=\"0\" skipped=\"1\""), "{xml}");
        assert_eq!(
            (
                xml.matches("<testcase").count(),
                xml.matches("<failure").count(),
                xml.matches("<skipped/>").count()
            ),
            (5, 2, 1)
        );
        assert!(xml.contains("a &lt;b&gt; &amp; &quot;c&quot; ]]&gt; d"), "{xml}");
        assert!(!xml.contains('\u{1b}') && !xml.contains('\u{7}'));
    }
}
