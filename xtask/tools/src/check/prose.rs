//! The check `prose`: width, sentence openings and plain words, in comments and Markdown.
//!
//! - No line has more than 100 columns. Exempt are tables, code blocks and addresses in Markdown,
//!   and raw strings in Rust.
//! - No sentence of a comment or of Markdown opens with a word that hides who acts.
//! - No comment, no string of the Rust code, no name of a function and no Markdown has one of the
//!   words in [`BANNED`].
//! - A line of Markdown holds at most one sentence, so that a diff shows one sentence.
//!
//! A question may open with any word, and text between backticks is never judged.

mod passages;

use super::texts::Text;
use passages::Kind;

/// The widest line.
const COLUMNS: usize = 100;

/// First words of a clause that has no actor.
const OPENINGS: [&str; 13] = [
    "What",
    "Whatever",
    "Who",
    "Whoever",
    "Whose",
    "Which",
    "Whichever",
    "Where",
    "Wherever",
    "Of",
    "That",
    "Those",
    "Nobody",
];

/// Words and phrases that we do not use, and the words to use instead.
const BANNED: [(&[&str], &str); 12] = [
    (&["told", "tell", "tells", "telling"], "say, report, print"),
    (&["nobody", "nobody's", "nobodies"], "no code, no kernel; free"),
    (&["lie", "lies", "lay"], "is at, is in, overlaps"),
    (&["live", "lives", "lived", "living", "life"], "runs, is in use; generation, run"),
    (&["go on", "goes on", "went on", "going on"], "continue"),
    (&["by now"], "already"),
    (&["for ever", "forever"], "permanently"),
    (&["hold against", "holds against", "held against"], "compare with, check against"),
    (&["obey", "obeys", "obeyed", "obeying", "disobeyed"], "follow, act on"),
    (&["let go", "lets go", "letting go"], "free, release"),
    (&["restless", "homeless"], "not quiescent; without a stack"),
    (&["whoever", "whatever it is"], "the name of the thing"),
];

/// Places where a rule does not apply: the end of the file's path, a part of the line, the reason.
const EXCEPTIONS: [(&str, &str, &str); 1] =
    [("check/prose.rs", "", "names the words, and has doctored texts")];

/// Returns the places that break a rule, except those in [`EXCEPTIONS`].
pub fn wrong(texts: &[Text]) -> Vec<String> {
    judged(texts, &EXCEPTIONS)
}

fn judged(texts: &[Text], exceptions: &[(&str, &str, &str)]) -> Vec<String> {
    let mut used = vec![false; exceptions.len()];
    let mut wrong = Vec::new();
    for text in texts {
        for (line, what) in in_file(text) {
            let whole = text.text.lines().nth(line - 1).unwrap_or_default();
            let exception = exceptions
                .iter()
                .position(|(path, part, _)| text.path.ends_with(path) && whole.contains(part));
            match exception {
                Some(index) => used[index] = true,
                None => wrong.push(format!("{}:{line}: {what}", text.path)),
            }
        }
    }
    for ((path, part, reason), _) in exceptions.iter().zip(used).filter(|(_, used)| !used) {
        wrong.push(format!("{path}: the exception for {part:?} ({reason}) is not needed"));
    }
    wrong
}

/// Returns the places of one file that break a rule: line, and what to write instead.
fn in_file(text: &Text) -> Vec<(usize, String)> {
    let Some(prose) = passages::of(text) else { return Vec::new() };
    let mut wrong = Vec::new();
    for (index, line) in text.text.lines().enumerate() {
        let columns = line.chars().count();
        if columns > COLUMNS && !line.contains("://") && !prose.any_width.contains(&(index + 1)) {
            wrong.push((index + 1, format!("{columns} columns: at most {COLUMNS}")));
        }
    }
    for passage in &prose.passages {
        for (start, sentence) in sentences(&passage.text) {
            let line = passage.line(start);
            for (at, word, instead) in banned(sentence) {
                let line = passage.line(start + at);
                wrong.push((line, format!("\"{word}\": write {instead}")));
            }
            if passage.kind == Kind::Words {
                continue;
            }
            if let Some(word) = opening(sentence) {
                let what = "say who acts, then what they do";
                wrong.push((line, format!("a sentence opens with \"{word}\": {what}")));
            }
            let before = passage.text[..start].rsplit('\n').next().unwrap_or_default();
            if passage.kind == Kind::Markdown && !before.trim().is_empty() {
                wrong.push((line, "a second sentence: give it a line of its own".to_owned()));
            }
        }
    }
    wrong.sort();
    wrong
}

/// Returns the sentences of a passage, with their offsets.
fn sentences(text: &str) -> Vec<(usize, &str)> {
    let mut sentences = Vec::new();
    let mut start = 0;
    for (at, end) in text.match_indices(['.', '!', '?']) {
        let after = &text[at + 1..];
        // The mark inside of "Bye!" ends no sentence.
        let closing: &[char] = if end == "." { &[')', '"', '”'] } else { &[')'] };
        let closed = after.trim_start_matches(closing);
        let next = closed.trim_start();
        let begins = |sign: char| sign.is_uppercase() || "*_(\"“".contains(sign);
        if next.len() < closed.len() && next.starts_with(begins) && !is_short(&text[..at]) {
            sentences.push((start, &text[start..=at]));
            start = text.len() - next.len();
        }
    }
    sentences.push((start, &text[start..]));
    sentences
}

/// Reports whether the text ends with an abbreviation or a number like I1, whose point ends no
/// sentence.
fn is_short(text: &str) -> bool {
    let word = text.rsplit(|sign: char| !sign.is_alphanumeric() && sign != '.').next();
    let word = word.unwrap_or_default();
    let number = word.strip_prefix(char::is_uppercase).unwrap_or_default();
    ["e.g", "i.e", "cf", "vs", "etc"].contains(&word) || number.parse::<u32>().is_ok()
}

/// Returns the first word if it is one of [`OPENINGS`] and the sentence is no question.
fn opening(sentence: &str) -> Option<&'static str> {
    let sentence = sentence.trim_start_matches(|sign: char| !sign.is_alphanumeric());
    let first = sentence.split(|sign: char| !sign.is_alphanumeric()).next()?;
    let opening = OPENINGS.into_iter().find(|&opening| opening == first)?;
    (!sentence.trim_end().ends_with('?')).then_some(opening)
}

/// Returns the banned words of a text: offset, phrase, and the words to use instead.
fn banned(text: &str) -> Vec<(usize, &'static str, &'static str)> {
    let lower = text.to_ascii_lowercase();
    let gap = |sign: char| !sign.is_alphanumeric() && sign != '\'';
    let mut words = Vec::new();
    let mut at = 0;
    for word in lower.split_inclusive(gap) {
        words.push((at, word.trim_matches(|sign| gap(sign) || sign == '\'')));
        at += word.len();
    }
    words.retain(|(_, word)| !word.is_empty());
    let mut found = Vec::new();
    for (phrases, instead) in BANNED {
        for &phrase in phrases {
            let parts: Vec<_> = phrase.split(' ').collect();
            for window in words.windows(parts.len()) {
                if window.iter().map(|(_, word)| word).eq(&parts) {
                    found.push((window[0].0, phrase, instead));
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(path: &str, text: &str) -> Vec<String> {
        judged(&[Text { path: path.to_owned(), text: text.to_owned() }], &[])
    }

    #[test]
    fn a_line_has_at_most_100_columns() {
        let words = "Forty words that say nothing much. ";
        let wide = format!("// {}", words.repeat(4));
        assert_eq!(said("a.S", &wide), ["a.S:1: 143 columns: at most 100"]);
        assert_eq!(said("a.md", &words.repeat(3).replace(". ", ", ")).len(), 1);
        assert_eq!(said("a.rs", &format!("let a = \n    \"{}\";", "a ".repeat(60))).len(), 1);
        assert_eq!(said("a.toml", &format!("a = \"{}\"", "a ".repeat(60))).len(), 1);
    }

    #[test]
    fn tables_code_addresses_and_raw_strings_may_be_wider() {
        let long = "a ".repeat(60);
        for (path, text) in [
            ("a.md", format!("| {long} | {long} |")),
            ("a.md", format!("    {long}")),
            ("a.md", format!("```text\n{long}\n```")),
            ("a.md", format!("- An item.\n\n      {long}")),
            ("a.md", format!("The [page]({}).", "a/".repeat(60))),
            ("a.rs", format!("// See https://example.org/{}", "a/".repeat(60))),
            ("a.rs", format!("const SCRIPT: &str = r\"\n{long}\n\";")),
            ("a.svg", long.clone()),
        ] {
            assert_eq!(said(path, &text), [""; 0], "{text}");
        }
    }

    #[test]
    fn a_sentence_without_an_actor_is_refused_with_its_line() {
        let what = "a sentence opens with \"What\": say who acts, then what they do";
        assert_eq!(
            said("a.rs", "//! Maps the tree.\n//! What is not mapped, Rust reports.\n"),
            [format!("a.rs:2: {what}")]
        );
        for (path, text) in [
            ("a.S", "    // Where a level traps it, we fault.\n    nop\n"),
            ("a.rs", "f(); // Of two copies, the first.\n"),
            ("a.rs", "/// - Whichever CPU calls it waits.\nfn f() {}\n"),
            ("a.S", "//   out       x0. Those that follow stay.\n"),
            ("a.ld", "/*\n * Sections. That one is first.\n */\n"),
            ("a.toml", "a = 1 # What the kernel gets.\n"),
            (".ci/run", "#!/bin/sh\n# Wherever it runs.\n"),
            ("a.md", "It runs.\n**Wherever** it waits.\n"),
            ("a.md", "1. Which is first.\n"),
        ] {
            assert_eq!(said(path, text).len(), 1, "{text}: {:?}", said(path, text));
        }
    }

    #[test]
    fn questions_code_and_actors_may_open_a_sentence() {
        for (path, text) in [
            ("a.md", "## What it is\n\nWhat is it?\nIt is a kernel.\n"),
            ("a.md", "| What | Where |\n"),
            ("a.rs", "// The kernel maps what it finds where that is.\n"),
            ("a.rs", "/// `What` is a name.\n///\n/// ```\n/// What::new();\n/// ```\n"),
            ("a.rs", "let a = \"What a string says. What is it\";\n"),
        ] {
            assert_eq!(said(path, text), [""; 0], "{text}");
        }
    }

    #[test]
    fn each_banned_word_is_refused_wherever_prose_is() {
        for (phrases, instead) in BANNED {
            for phrase in phrases {
                assert_eq!(
                    said("a.rs", &format!("// The kernel {phrase} it.\n")),
                    [format!("a.rs:1: \"{phrase}\": write {instead}")]
                );
            }
        }
        for (path, text) in [
            ("a.rs", "panic!(\"the segment {segment} lies there\");\n"),
            ("a.rs", "fn a_fault_is_told() {}\n"),
            ("a.md", "# A CPU goes\non\n\nThe CPU goes\non.\n"),
            ("a.md", "| cell | which nobody reads |\n"),
            ("a.toml", "why = \"nobody asks\"\n"),
        ] {
            assert_eq!(said(path, text).len(), 1, "{text}: {:?}", said(path, text));
        }
    }

    #[test]
    fn a_word_that_contains_a_banned_one_and_code_are_not_refused() {
        for (path, text) in [
            ("a.rs", "// The lifetime of a belief, an outlay, `told` and `nobody`.\n"),
            ("a.rs", "let told = format!(\"{told} {0}\", lies.lives());\n"),
            ("a.md", "    the guest told nobody\n"),
            ("a.rs", "// They go. On the way they stop.\n"),
        ] {
            assert_eq!(said(path, text), [""; 0], "{text}");
        }
    }

    #[test]
    fn a_line_of_markdown_has_one_sentence() {
        assert_eq!(
            said("a.md", "The kernel runs. It ends.\n"),
            ["a.md:1: a second sentence: give it a line of its own"]
        );
        assert_eq!(said("a.md", "- It runs (always). `main` ends\n  it.\n").len(), 1);
        for text in [
            "The kernel runs.\nIt ends.\n",
            "The kernel\nruns, e.g. QEMU's, in 0.5 s.\n",
            "**Why.** It is 1.5 times as fast.\n",
            "| It runs. It ends. |\n",
            "**I1. The entry.**\nAfter \"Bye!\" The kernel ends.\n",
        ] {
            assert_eq!(said("a.md", text), [""; 0], "{text}");
        }
        assert_eq!(said("a.rs", "// It runs. It ends.\n"), [""; 0]);
    }

    #[test]
    fn an_exception_excuses_its_place_alone_and_must_be_needed() {
        let text = |path: &str| Text { path: path.to_owned(), text: "// A lie.\n// A lie.".into() };
        let exceptions = [("b/a.rs", "lie", "a reason"), ("c.rs", "lie", "another")];
        assert_eq!(
            judged(&[text("b/a.rs"), text("a.rs")], &exceptions),
            [
                format!("a.rs:1: \"lie\": write {}", BANNED[2].1),
                format!("a.rs:2: \"lie\": write {}", BANNED[2].1),
                "c.rs: the exception for \"lie\" (another) is not needed".to_owned()
            ]
        );
    }
}
