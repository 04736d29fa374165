//! The prose of a file: comments, strings and names of functions, or the text of Markdown.

use std::{collections::BTreeSet, ops::Range};

use super::{super::texts::Text, COLUMNS};

/// The kind of a passage, which decides the rules for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Sentences in a comment.
    Comment,
    /// Sentences of Markdown: a paragraph, or an item of a list.
    Markdown,
    /// Text that need not be a sentence: a string, a name, a heading, a cell of a table.
    Words,
}

/// Text that belongs together, without the marks of its language.
#[derive(Debug)]
pub struct Passage {
    /// The kind.
    pub kind: Kind,
    /// The lines, joined by line feeds; text between backticks and link targets are masked.
    pub text: String,
    /// The number of its first line in the file.
    line: usize,
}

impl Passage {
    fn new(kind: Kind, line: usize, text: &str) -> Self {
        Self { kind, text: masked(text), line }
    }

    /// Returns the file's line that this offset of the text is on.
    pub fn line(&self, offset: usize) -> usize {
        self.line + self.text[..offset].matches('\n').count()
    }
}

/// The prose of a file.
#[derive(Debug, Default)]
pub struct Prose {
    /// All passages.
    pub passages: Vec<Passage>,
    /// Numbers of the lines that may have any width.
    pub any_width: BTreeSet<usize>,
}

/// Returns the prose of a file, or `None` if its language is not one that we judge.
pub fn of(text: &Text) -> Option<Prose> {
    let name = text.path.rsplit('/').next().unwrap_or_default();
    Some(match name.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "rs" | "S" => rust(&text.text),
        "md" => markdown(&text.text),
        "ld" => linker_script(&text.text),
        "toml" | "yml" => hashed(&text.text),
        _ if text.text.starts_with("#!") => hashed(&text.text),
        _ => return None,
    })
}

impl Prose {
    fn words(&mut self, line: usize, text: &str) {
        self.passages.push(Passage::new(Kind::Words, line, text));
    }
}

/// Gathers consecutive lines into passages.
struct Gatherer<'a> {
    kind: Kind,
    prose: &'a mut Prose,
    open: Option<(usize, String)>,
    in_fence: bool,
}

impl<'a> Gatherer<'a> {
    fn new(kind: Kind, prose: &'a mut Prose) -> Self {
        Self { kind, prose, open: None, in_fence: false }
    }

    /// Takes a line; `text` has lost the mark of a comment and one space.
    fn line(&mut self, number: usize, text: &str) {
        let trimmed = text.trim();
        let fence = trimmed.starts_with("```");
        self.in_fence ^= fence;
        // Four spaces are code, except in a paragraph: there they indent an item of a list.
        let code = text.starts_with("    ") && (self.kind == Kind::Comment || self.open.is_none());
        if fence || self.in_fence || code && !trimmed.is_empty() {
            self.prose.any_width.extend((self.kind == Kind::Markdown).then_some(number));
            return self.close();
        }
        if trimmed.is_empty() || trimmed.starts_with("<!--") {
            return self.close();
        }
        if trimmed.starts_with('|') {
            self.close();
            self.prose.any_width.insert(number);
            return trimmed.split('|').for_each(|cell| self.prose.words(number, cell));
        }
        if trimmed.starts_with('#') && self.kind == Kind::Markdown {
            self.close();
            return self.prose.words(number, trimmed);
        }
        let (begins, said) = without_mark(trimmed);
        if begins {
            self.close();
        }
        match &mut self.open {
            Some((_, open)) => {
                open.push('\n');
                open.push_str(said);
            }
            None => self.open = Some((number, said.to_owned())),
        }
    }

    fn close(&mut self) {
        if let Some((line, text)) = self.open.take() {
            self.prose.passages.push(Passage::new(self.kind, line, &text));
        }
    }
}

/// Splits off the mark of a list's item, or the first word of a contract's line; returns whether
/// there was one.
fn without_mark(line: &str) -> (bool, &str) {
    let mark = line.split(' ').next().unwrap_or_default();
    let numbered = mark.strip_suffix('.').is_some_and(|number| number.parse::<u32>().is_ok());
    let rest = &line[mark.len()..];
    let contract = ["in", "assumes", "out", "clobbers", "memory"].contains(&mark);
    match matches!(mark, "-" | "*") || numbered || contract && rest.starts_with("  ") {
        true => (true, rest.trim_start()),
        false => (false, line),
    }
}

/// A part of a Rust or assembly file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Part {
    Code,
    Comment,
    String,
    RawString,
}

/// Divides a Rust file, or assembly, which has the same comments.
fn parts(text: &str) -> Vec<(Part, Range<usize>)> {
    let mut parts = Vec::new();
    let (mut at, mut code) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        let (part, length) = if rest.starts_with("//") {
            (Part::Comment, rest.find('\n').unwrap_or(rest.len()))
        } else if let Some(length) = raw_string(rest) {
            (Part::RawString, length)
        } else if let Some(string) = rest.strip_prefix('"') {
            (Part::String, 1 + quoted(string))
        } else {
            at += character(rest);
            continue;
        };
        parts.push((Part::Code, code..at));
        parts.push((part, at..at + length));
        at += length;
        code = at;
    }
    parts.push((Part::Code, code..text.len()));
    parts
}

/// Returns the length of a string after its opening quote, with its closing one.
fn quoted(text: &str) -> usize {
    let mut escaped = false;
    text.find(|sign| {
        let end = sign == '"' && !escaped;
        escaped = sign == '\\' && !escaped;
        end
    })
    .map_or(text.len(), |at| at + 1)
}

/// Returns the length of a raw string that the text begins with.
fn raw_string(text: &str) -> Option<usize> {
    let hashes = text.strip_prefix('r')?;
    let string = hashes.trim_start_matches('#');
    let count = hashes.len() - string.len();
    let end = format!("\"{}", "#".repeat(count));
    let length = string.strip_prefix('"')?.find(&end)?;
    Some(1 + count + 1 + length + end.len())
}

/// Returns the length of the character that the text begins with, or of the character literal.
fn character(text: &str) -> usize {
    let mut signs = text.chars();
    let literal = match (signs.next(), signs.next(), signs.next()) {
        (Some('\''), Some('\\'), Some(_)) => text[3..].find('\'').map(|at| 3 + at + 1),
        (Some('\''), Some(sign), Some('\'')) => Some(sign.len_utf8() + 2),
        _ => None,
    };
    literal.unwrap_or_else(|| text.chars().next().map_or(1, char::len_utf8))
}

fn rust(text: &str) -> Prose {
    let mut prose = Prose::default();
    let mut gatherer = Gatherer::new(Kind::Comment, &mut prose);
    let number = |at: usize| 1 + text[..at].matches('\n').count();
    let mut last = ("", 0);
    for (part, range) in parts(text) {
        let (line, said) = (number(range.start), &text[range.clone()]);
        match part {
            Part::Comment => {
                let start = text[..range.start].rfind('\n').map_or(0, |at| at + 1);
                let mark = ["///", "//!", "//"].into_iter().find(|mark| said.starts_with(mark));
                let mark = mark.unwrap_or_default();
                let alone = text[start..range.start].trim().is_empty();
                if !alone || last != (mark, line - 1) {
                    gatherer.close();
                }
                let said = &said[mark.len()..];
                gatherer.line(line, said.strip_prefix(' ').unwrap_or(said));
                last = if alone { (mark, line) } else { ("", 0) };
            }
            Part::String | Part::RawString => {
                if part == Part::RawString {
                    gatherer.prose.any_width.extend(line..=number(range.end));
                }
                gatherer.prose.words(line, &without_arguments(said));
            }
            Part::Code => {
                if !said.trim().is_empty() {
                    gatherer.close();
                }
                for (at, _) in said.match_indices("fn ") {
                    let name = said[at + 3..].split('(').next().unwrap_or_default();
                    gatherer.prose.words(number(range.start + at), &name.replace('_', " "));
                }
            }
        }
    }
    gatherer.close();
    prose
}

/// Masks the arguments of a format string: `{name}`.
fn without_arguments(text: &str) -> String {
    let mut depth = 0_usize;
    let mask = |sign| {
        depth += usize::from(sign == '{');
        let masked = depth > 0 && sign != '\n';
        depth = depth.saturating_sub(usize::from(sign == '}'));
        if masked { ' ' } else { sign }
    };
    text.chars().map(mask).collect()
}

fn markdown(text: &str) -> Prose {
    let mut prose = Prose::default();
    let mut gatherer = Gatherer::new(Kind::Markdown, &mut prose);
    for (index, line) in text.lines().enumerate() {
        gatherer.line(index + 1, line);
        // A link's target cannot be broken.
        if line.contains("](") && masked(line).chars().count() <= COLUMNS {
            gatherer.prose.any_width.insert(index + 1);
        }
    }
    gatherer.close();
    prose
}

fn linker_script(text: &str) -> Prose {
    let mut prose = Prose::default();
    let mut gatherer = Gatherer::new(Kind::Comment, &mut prose);
    let mut inside = false;
    for (index, line) in text.lines().enumerate() {
        let (begins, said) = match line.split_once("/*") {
            Some((_, said)) => (true, said),
            None => (inside, line),
        };
        if !begins {
            continue;
        }
        let (said, ends) = match said.split_once("*/") {
            Some((said, _)) => (said, true),
            None => (said, false),
        };
        gatherer.line(index + 1, said.trim_start().trim_start_matches('*').trim_start());
        inside = !ends;
        if ends {
            gatherer.close();
        }
    }
    prose
}

/// Reads TOML, YAML and shell: comments after `#`, strings between quotes.
fn hashed(text: &str) -> Prose {
    let mut prose = Prose::default();
    let mut gatherer = Gatherer::new(Kind::Comment, &mut prose);
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with("#!")) {
        let mut quote = None;
        let mut before = ' ';
        let comment = line.char_indices().find(|&(_, sign)| {
            let begins = sign == '#' && quote.is_none() && before.is_whitespace();
            if matches!(sign, '"' | '\'') && quote.is_none_or(|open| open == sign) {
                quote = if quote.is_some() { None } else { Some(sign) };
            }
            before = sign;
            begins
        });
        let (code, said) = match comment {
            Some((at, _)) => (&line[..at], &line[at + 1..]),
            None => (line, ""),
        };
        let alone = code.trim().is_empty();
        if !alone {
            gatherer.close();
        }
        gatherer.line(index + 1, said.strip_prefix(' ').unwrap_or(said));
        if !alone {
            gatherer.close();
            code.split('"')
                .skip(1)
                .step_by(2)
                .for_each(|said| gatherer.prose.words(index + 1, said));
        }
    }
    gatherer.close();
    prose
}

/// Masks text between backticks, and the targets of links; keeps the number of bytes and lines.
fn masked(text: &str) -> String {
    let mut masked = String::new();
    let (mut code, mut target, mut before) = (false, false, ' ');
    for sign in text.chars() {
        code ^= sign == '`';
        target |= sign == '(' && before == ']' && !code;
        let fill = match (sign, code || sign == '`') {
            ('\n', _) => None,
            (_, true) => Some("X"),
            ('[' | ']', _) => Some(""),
            _ => target.then_some(""),
        };
        match fill {
            Some(fill) => masked.push_str(fill),
            None => masked.push(sign),
        }
        target &= sign != ')';
        before = sign;
    }
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &str, text: &str) -> Vec<(Kind, usize, String)> {
        let prose = of(&Text { path: path.to_owned(), text: text.to_owned() }).unwrap();
        let of = |passage: Passage| (passage.kind, passage.line, passage.text);
        prose.passages.into_iter().map(of).filter(|(.., text)| !text.trim().is_empty()).collect()
    }

    fn passage(kind: Kind, line: usize, text: &str) -> (Kind, usize, String) {
        (kind, line, text.to_owned())
    }

    #[test]
    fn comments_strings_and_names_are_the_prose_of_rust() {
        let text = "//! Head.

/// Doc
/// comment.
///
///     code
fn a_name(x: &'a str) {
    let c = '\"'; // trailing
    // - one
    //   more
    // - two
    say(\"{told} // no comment\");
}
";
        assert_eq!(
            read("a/b.rs", text),
            [
                passage(Kind::Comment, 1, "Head."),
                passage(Kind::Comment, 3, "Doc\ncomment."),
                passage(Kind::Words, 7, "a name"),
                passage(Kind::Comment, 8, "trailing"),
                passage(Kind::Comment, 9, "one\nmore"),
                passage(Kind::Comment, 11, "two"),
                passage(Kind::Words, 12, "\"       // no comment\""),
            ]
        );
    }
}
