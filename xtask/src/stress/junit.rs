//! The report for continuous integration: JUnit's XML, a test case a cell.
//!
//! *When:* on `--junit`. Pure. A cell that was not run is skipped; of one that failed several times, the first is told.

use std::fmt::Write;

use super::{
    report::full,
    tally::{Failure, Tally},
};

/// The file.
pub fn junit(tally: &Tally) -> String {
    let suite = escaped(&tally.what);
    // What failed outside any cell's run is a case as well: nothing that failed is missing here.
    let strays: Vec<_> = tally.failures.iter().filter(|failure| !tally.cells.contains_key(&failure.cell)).collect();
    let failing = |name: &String| tally.failures.iter().find(|failure| failure.cell == *name);
    let failed = tally.cells.keys().filter(|name| failing(name).is_some()).count() + strays.len();
    let tests = tally.cells.len() + strays.len();
    let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned();
    let _ = writeln!(
        text,
        "<testsuites><testsuite name=\"ouroboros.{suite}\" tests=\"{tests}\" failures=\"{failed}\" errors=\"0\" skipped=\"{}\" time=\"{:.3}\">",
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
    for (name, lives) in &tally.cells {
        let _ = write!(
            text,
            "<testcase classname=\"ouroboros.{suite}\" name=\"{}\" time=\"{:.3}\">",
            escaped(name),
            lives.seconds
        );
        match failing(name) {
            Some(failure) => told(&mut text, failure),
            None if lives.runs == 0 => text += "<skipped/>",
            None => {}
        }
        text += "</testcase>\n";
    }
    for failure in strays {
        let _ = write!(text, "<testcase classname=\"ouroboros.{suite}\" name=\"{}\">", escaped(&failure.cell));
        told(&mut text, failure);
        text += "</testcase>\n";
    }
    text + "</testsuite></testsuites>\n"
}

fn told(text: &mut String, failure: &Failure) {
    let _ = write!(text, "<failure message=\"{}\">{}</failure>", escaped(&failure.why), escaped(&full(failure)));
}

/// Text for XML and HTML, in a value or between tags. What XML 1.0 cannot hold at all, such as a terminal's escape, becomes U+FFFD.
pub fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\n' | '\t' => escaped.push(c),
            c if c.is_control() || c == '\u{fffe}' || c == '\u{ffff}' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
pub mod tests {
    use super::{
        super::tally::tests::{failure, tally},
        *,
    };

    /// Each tag that is opened is closed in its turn, values are quoted, and nothing is left outside of the root.
    pub fn well_formed(xml: &str, void: &[&str]) -> Result<(), String> {
        let mut open: Vec<String> = Vec::new();
        let mut rest = xml;
        while let Some(start) = rest.find('<') {
            let text = &rest[..start];
            if text.contains('>') {
                return Err(format!("a bare > in {text:?}"));
            }
            for entity in text.split('&').skip(1) {
                if !["amp;", "lt;", "gt;", "quot;", "#"].iter().any(|known| entity.starts_with(known)) {
                    return Err(format!("a bare & before {entity:?}"));
                }
            }
            let end = start + rest[start..].find('>').ok_or("a tag without an end")?;
            let tag = &rest[start + 1..end];
            rest = &rest[end + 1..];
            if tag.starts_with(['?', '!']) {
                continue;
            }
            if !tag.matches('"').count().is_multiple_of(2) {
                return Err(format!("a value without an end in <{tag}>"));
            }
            let name = tag.trim_start_matches('/').split([' ', '/', '\n']).next().unwrap_or_default().to_owned();
            if tag.starts_with('/') {
                let opened = open.pop();
                if opened.as_ref() != Some(&name) {
                    return Err(format!("</{name}> closes {opened:?}"));
                }
            } else if !tag.ends_with('/') && !void.contains(&name.as_str()) {
                open.push(name.clone());
            }
            // Style and script are not markup.
            if name == "style" && !tag.starts_with('/') {
                rest = &rest[rest.find("</style>").ok_or("a style without an end")?..];
            }
        }
        if open.is_empty() { Ok(()) } else { Err(format!("{open:?} are not closed")) }
    }

    #[test]
    fn it_is_well_formed_whatever_a_console_says() {
        let mut whole = tally("seed 0x1", 3, Some(failure()));
        whole.choose("vhe-1cpu-gicv3-modern-hot-same");
        whole.failures.push(Failure { cell: "elsewhere".into(), ..failure() });
        let xml = junit(&whole);
        well_formed(&xml, &[]).unwrap();
        assert!(xml.contains("tests=\"5\" failures=\"2\" errors=\"0\" skipped=\"1\""), "{xml}");
        assert_eq!(
            (xml.matches("<testcase").count(), xml.matches("<failure").count(), xml.matches("<skipped/>").count()),
            (5, 2, 1)
        );
        assert!(xml.contains("a &lt;b&gt; &amp; &quot;c&quot; ]]&gt; d"), "{xml}");
        assert!(!xml.contains('\u{1b}') && !xml.contains('\u{7}'));
    }

    #[test]
    fn the_judge_of_form_can_say_no() {
        for wrong in ["<a>", "<a></b>", "<a x=\"></a>", "<a>&b</a>", "</a>", "<a><b></a></b>"] {
            assert!(well_formed(wrong, &[]).is_err(), "{wrong}");
        }
        well_formed("<a x=\"1\"><b/>&lt;</a>", &[]).unwrap();
    }
}
