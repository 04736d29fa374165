//! The check `contracts`: each assembly routine has the five lines that state its contract.
//!
//! A routine is a label that is `.global` or called by `bl`, followed by an instruction or by the
//! slots of a vector table. Labels that mark a place or name data are not routines. A contract
//! block above any other label must be complete too.
//!
//! ```text
//! // name — one sentence.
//! //   in        …                    or one line: in, assumes, out, clobbers, memory: as another
//! //   assumes   …
//! //   out       …
//! //   clobbers  …
//! //   memory    …
//! ```

use std::collections::BTreeSet;

use super::texts::Text;

const KEYS: [&str; 5] = ["in", "assumes", "out", "clobbers", "memory"];
const ALL_IN_ONE: &str = "in, assumes, out, clobbers, memory: ";

/// Returns the violations found in the sources.
pub fn wrong(texts: &[Text]) -> Vec<String> {
    let sources: Vec<_> = texts.iter().filter(|text| text.path.ends_with(".S")).collect();
    let calls = sources.iter().flat_map(|source| source.text.lines()).filter_map(called);
    let called: BTreeSet<_> = calls.collect();
    sources.iter().flat_map(|source| faults(source, &called)).collect()
}

/// A routine's contract.
pub struct Contract<'a> {
    /// File and line of the routine.
    pub place: String,
    /// The routine's name.
    pub name: &'a str,
    block: Vec<&'a str>,
}

impl Contract<'_> {
    /// Returns the text of a line, with its continuations.
    pub fn says(&self, wanted: &str) -> String {
        let lines = self.block.iter().skip_while(|line| key(line) != Some(wanted));
        let lines =
            lines.enumerate().take_while(|(number, line)| *number == 0 || key(line).is_none());
        let text: Vec<_> = lines.flat_map(|(_, line)| line.split_whitespace()).collect();
        text.get(1..).unwrap_or_default().join(" ")
    }
}

/// Returns all contracts in the sources.
pub fn all(texts: &[Text]) -> Vec<Contract<'_>> {
    let mut contracts = Vec::new();
    for source in texts.iter().filter(|text| text.path.ends_with(".S")) {
        let lines: Vec<_> = source.text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let Some((name, _)) = label(line) else { continue };
            let block = above(&lines[..number]);
            if is_block(&block) {
                let place = format!("{}:{}", source.path, number + 1);
                contracts.push(Contract { place, name, block });
            }
        }
    }
    contracts
}

/// Returns the name that a line exports or calls.
fn called(line: &str) -> Option<&str> {
    let mut words = code(line).split_whitespace();
    words.find(|word| matches!(*word, ".global" | ".globl" | "bl"))?;
    words.next()
}

/// Strips the comment from a line.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default().trim()
}

fn faults(source: &Text, called: &BTreeSet<&str>) -> Vec<String> {
    let lines: Vec<_> = source.text.lines().collect();
    let mut faults = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let Some((name, behind)) = label(line) else { continue };
        let block = above(&lines[..number]);
        let wanted = called.contains(name) && is_routine(behind, &lines[number + 1..]);
        if (wanted || is_block(&block))
            && let Some(fault) = fault(name, &block)
        {
            faults.push(format!("{}:{}: {name}: {fault}", source.path, number + 1));
        }
    }
    faults
}

/// Splits off a named label; returns the name and the rest of the line.
fn label(line: &str) -> Option<(&str, &str)> {
    let (name, behind) = code(line).split_once(':')?;
    let named = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let word = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    (named && word).then_some((name, behind.trim()))
}

/// Reports whether an instruction, or a macro that makes one, follows a label.
fn is_routine(behind: &str, after: &[&str]) -> bool {
    let following = std::iter::once(behind)
        .chain(after.iter().map(|line| code(line)))
        .filter(|line| !line.is_empty());
    for line in following {
        match line.split_whitespace().next().unwrap_or_default() {
            ".balign" | ".p2align" | ".global" | ".globl" | ".hidden" | ".type" => {}
            // A loop that makes vector slots or handles registers in turn.
            ".irp" | ".rept" => return true,
            first => return !first.starts_with('.') && label(line).is_none(),
        }
    }
    false
}

/// Returns the comment above a label, skipping directives in between.
fn above<'a>(before: &[&'a str]) -> Vec<&'a str> {
    let upwards = before.iter().rev().skip_while(|line| code(line).starts_with('.'));
    let mut block: Vec<_> = upwards.map_while(|line| line.strip_prefix("//")).collect();
    block.reverse();
    block
}

fn is_block(block: &[&str]) -> bool {
    block.iter().any(|line| key(line).is_some())
}

/// Returns the key at the start of a line in a block; a continuation line has none.
fn key(line: &str) -> Option<&str> {
    let line = line.strip_prefix("   ")?;
    if line.starts_with(ALL_IN_ONE) {
        return Some(ALL_IN_ONE);
    }
    let key = line.split(' ').next()?;
    (!key.is_empty()).then_some(key)
}

/// Returns what is missing from a block.
fn fault(name: &str, block: &[&str]) -> Option<String> {
    let Some((first, rest)) = block.split_first() else {
        return Some(format!("it has no block above it: begin with `// {name} — …`"));
    };
    if !first.starts_with(&format!(" {name} — ")) {
        return Some(format!("its block does not begin with `// {name} — …`"));
    }
    let keys: Vec<_> = rest.iter().filter_map(|line| key(line)).collect();
    let whole = keys == KEYS || keys == [ALL_IN_ONE];
    (!whole).then(|| format!("its block says {keys:?}, and not {KEYS:?} in this order"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: &str = "\
// walk — goes.
//   in        x0 = list
//   assumes   much, and so much
//             that it takes two lines
//   out       x0
//   clobbers  flags
//   memory    none
        .global walk
";

    fn said(text: &str) -> Vec<String> {
        wrong(&[Text { path: "a.S".to_owned(), text: text.to_owned() }])
    }

    #[test]
    fn a_whole_block_passes_and_each_line_is_needed() {
        let routine = |block: &str| format!("{block}walk:\n        ret\n");
        assert_eq!(said(&routine(BLOCK)), [""; 0]);
        let lines: Vec<_> = BLOCK.lines().collect();
        for missing in [0, 1, 2, 4, 5, 6] {
            let rest: Vec<_> =
                (0..lines.len()).filter(|&line| line != missing).map(|line| lines[line]).collect();
            assert_eq!(said(&routine(&(rest.join("\n") + "\n"))).len(), 1, "{}", lines[missing]);
        }
        assert!(
            said(&routine(&BLOCK.replace("walk —", "run —")))[0]
                .contains("does not begin with `// walk — …`")
        );
    }

    #[test]
    fn one_line_may_refer_to_another_block() {
        let short =
            "// f — goes.\n//   in, assumes, out, clobbers, memory: as walk,\n//   but faster\n";
        assert_eq!(said(&format!("        bl f\n{short}f:      ret\n")).len(), 1, "a further key");
        let short = "// f — goes.\n//   in, assumes, out, clobbers, memory: as walk\n";
        assert_eq!(said(&format!("        bl f\n{short}f:      ret\n")), [""; 0]);
    }

    #[test]
    fn a_routine_is_what_others_call() {
        let none = "it has no block above it: begin with `// f — …`";
        for text in [
            "        .global f\nf:      ret\n",
            "f:\n\n        ret\n        bl f\n",
            "1:      bl f // now\nf:\n        vector 1, g\n",
            "        .globl f\nf:\n        .irp n, 1\n",
        ] {
            let said = said(text);
            assert!(said.len() == 1 && said[0].ends_with(none), "{text}: {said:?}");
        }
        for text in ["f:      ret\n        b f\n", "// bl f\nf:      ret\n"] {
            assert_eq!(said(text), [""; 0], "not called: {text}");
        }
    }

    #[test]
    fn places_and_data_are_no_routines() {
        for text in [
            "        .global f\nf:\n",
            "        .global f\nf:\n        .quad 0\n",
            "        .global f\nf:\n// g — goes.\n//   in, assumes, out, clobbers, memory: as walk\
             \n        .balign 4\ng:      ret\n",
            "        .global f\nf:      .skip 8\n        ret\n",
        ] {
            assert_eq!(said(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn a_block_that_is_begun_must_be_whole_even_without_a_call() {
        let text = "// f — goes.\n//   in        nothing\nf:      ret\n";
        assert!(said(text)[0].starts_with("a.S:3: f: its block says [\"in\"]"), "{:?}", said(text));
    }
}
