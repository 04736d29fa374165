//! Escapes for XML and HTML, and a check for well-formed markup, which tests use.

/// Escapes text for XML and HTML, in an attribute value or between tags. Characters that XML 1.0
/// cannot hold, such as a terminal's escape, become U+FFFD.
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

/// Checks that every tag is closed in its order, that values are quoted, and that nothing is
/// outside the root.
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
        let name = tag
            .trim_start_matches('/')
            .split([' ', '/', '\n'])
            .next()
            .unwrap_or_default()
            .to_owned();
        if tag.starts_with('/') {
            let opened = open.pop();
            if opened.as_ref() != Some(&name) {
                return Err(format!("</{name}> closes {opened:?}"));
            }
        } else if !tag.ends_with('/') && !void.contains(&name.as_str()) {
            open.push(name.clone());
        }
        // The content of style is not markup.
        if name == "style" && !tag.starts_with('/') {
            rest = &rest[rest.find("</style>").ok_or("a style without an end")?..];
        }
    }
    if open.is_empty() { Ok(()) } else { Err(format!("{open:?} are not closed")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_judge_of_form_can_say_no() {
        for wrong in ["<a>", "<a></b>", "<a x=\"></a>", "<a>&b</a>", "</a>", "<a><b></a></b>"] {
            assert!(well_formed(wrong, &[]).is_err(), "{wrong}");
        }
        well_formed("<a x=\"1\"><b/>&lt;</a>", &[]).unwrap();
    }

    #[test]
    fn what_markup_cannot_hold_is_replaced() {
        assert_eq!(escaped("a <b> & \"c\"\n\u{1b}"), "a &lt;b&gt; &amp; &quot;c&quot;\n\u{fffd}");
    }
}
