//! The list of known breaks: rules that a loader is known to break, in the user's hand.
//!
//! A file is TOML:
//!
//! ```text
//! [[known]]
//! loader = "u-boot-*"        # a name; * stands for any text
//! versions = "2023.*"        # optional: without it, every version
//! rule = 12
//! reason = "U-Boot takes SErrors itself"
//! link = "https://…"         # optional
//! ```

use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::error::Usage;
use protocol::rules::RULES;
use serde::{Deserialize, Serialize};

use crate::report::Loader;

/// A known break.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Break {
    /// Pattern of the loader's name.
    pub loader: String,
    /// Pattern of its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versions: Option<String>,
    /// The rule.
    pub rule: u32,
    /// Why it is broken.
    pub reason: String,
    /// A page about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}

/// A list of known breaks.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    #[serde(default)]
    known: Vec<Break>,
}

impl Known {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// The file cannot be read, is no such list, names a rule that does not exist, or has an entry
    /// without a reason.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Usage(format!("--known: cannot read {}: {error}", path.display())))?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    /// Parses a file's text, as [`Self::read`] does.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub fn parse(text: &str) -> Result<Self> {
        let list: Self = toml::from_str(text)?;
        for Break { loader, rule, reason, .. } in &list.known {
            let exists = RULES.iter().any(|known| u32::from(known.number) == *rule);
            ensure!(exists, "{loader}: there is no rule {rule}");
            ensure!(!reason.trim().is_empty(), "{loader}, rule {rule}: the reason is empty");
        }
        Ok(list)
    }

    /// Appends another list.
    pub fn extend(&mut self, other: Self) {
        self.known.extend(other.known);
    }

    /// Returns the entry for this rule of this loader. An entry with a version pattern is for
    /// loaders whose version is known.
    #[must_use]
    pub fn find(&self, loader: &Loader, rule: u32) -> Option<&Break> {
        self.known.iter().find(|entry| {
            let is_version = match (&entry.versions, &loader.version) {
                (None, _) => true,
                (Some(pattern), Some(version)) => matches(pattern, version),
                (Some(_), None) => false,
            };
            entry.rule == rule && matches(&entry.loader, &loader.name) && is_version
        })
    }
}

/// Returns whether `text` matches a pattern in which `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len())
                .filter(|&at| rest.is_char_boundary(at))
                .any(|at| matches(after, &rest[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loader(name: &str, version: Option<&str>) -> Loader {
        Loader { name: name.into(), version: version.map(str::to_owned), machine: None }
    }

    #[test]
    fn an_entry_is_for_its_loaders_versions_and_rule() {
        let known = Known::parse(
            "[[known]]\nloader = \"u-boot-*\"\nversions = \"2023.*\"\nrule = 12\nreason = \"a\"\n\
             [[known]]\nloader = \"vmm\"\nrule = 7\nreason = \"b\"\n\
             link = \"https://example.org\"\n",
        )
        .unwrap();
        let found = |name, version, rule| {
            known.find(&loader(name, version), rule).map(|entry| entry.reason.as_str())
        };
        assert_eq!(found("u-boot-booti", Some("2023.01+dfsg-2"), 12), Some("a"));
        assert_eq!(found("u-boot-booti", Some("2025.01"), 12), None);
        assert_eq!(found("u-boot-booti", None, 12), None, "the version is not known");
        assert_eq!(found("u-boot-booti", Some("2023.01"), 7), None);
        assert_eq!(found("vmm", None, 7), Some("b"));
        assert_eq!(found("vmm", Some("1"), 7), Some("b"));
        assert_eq!(found("vmm2", None, 7), None);
    }

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text, is) in [
            ("*", "", true),
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*c", "abd", false),
            ("a*b*", "a-b-b", true),
            ("abc", "abcd", false),
            ("*é", "caf\u{e9}", true),
        ] {
            assert_eq!(matches(pattern, text), is, "{pattern} {text}");
        }
    }

    #[test]
    fn a_list_that_is_wrong_is_refused() {
        let entry = "[[known]]\nloader = \"a\"\nrule = 7\nreason = \"b\"\n";
        Known::parse(entry).unwrap();
        Known::parse("").unwrap();
        for wrong in [
            entry.replace("rule = 7", "rule = 99"),
            entry.replace("\"b\"", "\" \""),
            entry.replace("reason", "why"),
            entry.replace("rule = 7\n", ""),
        ] {
            assert!(Known::parse(&wrong).is_err(), "{wrong}");
        }
        assert!(Known::read(Path::new("/nowhere")).unwrap_err().is::<Usage>());
    }
}
