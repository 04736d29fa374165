//! The check `contracts-linked`: `clobbers` lists what the routine in the linked kernel changes.
//!
//! A register that the routine changes must be in its `clobbers` or be a result in its `out`; a
//! register that `clobbers` lists must be changed. [`super::changes`] computes the changes. The
//! grammar of `clobbers`: terms, separated by commas.
//!
//! - `x9`, `x9–x13`, `q0–q7`, `flags`, `FPSR`, `TPIDR_EL0`, `TPIDRRO_EL0`, `TPIDR_EL2`, `none`.
//! - `all`: the routine is not compared.
//! - `as NAME`, `or NAME`: what that routine lists, of which this one may change less.
//! - `as a function call`: what AAPCS64 allows, and x18.
//! - `except x18`: without that register.
//!
//! A colon ends the list; a reason may follow. In `out`, results stand before an equals sign. A
//! vector table may list more than it changes, because its entries belong to an ABI.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    changes::{Place, Reader, Routine, SCRATCH, by_a_function},
    contracts::{self, Contract},
    linked::Linked,
    texts::Text,
};

/// The folder whose assembly is not linked into the kernel.
const TOOLS: &str = "xtask/";
/// Bytes of a vector table, of its slots, and of the slots of the routine `probes`.
const VECTORS: u64 = 2048;
const VECTOR: usize = 128;
const PROBE: usize = 8;

/// Returns the contracts that the linked kernel does not keep.
pub fn wrong(linked: &Linked, texts: &[Text]) -> Vec<String> {
    let contracts: Vec<_> =
        contracts::all(texts).into_iter().filter(|one| !one.place.starts_with(TOOLS)).collect();
    let mut reader = Reader::new(linked, routines(linked, &contracts));
    let by_name: BTreeMap<_, _> = contracts.iter().map(|one| (one.name, one)).collect();
    contracts
        .iter()
        .filter_map(|one| {
            let fault = match fault(one, &by_name, linked, &mut reader) {
                Ok(fault) => fault?,
                Err(lack) => lack,
            };
            Some(format!("{}: {}: {fault}", one.place, one.name))
        })
        .collect()
}

/// Returns the code of each routine.
fn routines(linked: &Linked, contracts: &[Contract<'_>]) -> BTreeMap<u64, Routine> {
    let symbols: BTreeSet<_> = linked.symbols.values().copied().collect();
    let routine = |one: &Contract<'_>| {
        let start = linked.symbol(one.name).ok()?;
        let next = symbols.range(start + 1..).next().copied().unwrap_or(start);
        let (end, slot) = match one.name {
            name if is_vector_table(name) => (start + VECTORS, Some(VECTOR)),
            "probes" => (next, Some(PROBE)),
            _ => (next, None),
        };
        Some((start, Routine { range: start..end, slot }))
    };
    contracts.iter().filter_map(routine).collect()
}

fn is_vector_table(name: &str) -> bool {
    name.ends_with("_vectors")
}

/// The registers that a contract lists.
#[derive(Debug, Default, Eq, PartialEq)]
struct Listed {
    all: bool,
    /// Each of these must be changed.
    named: BTreeSet<Place>,
    /// Each of these may be changed.
    allowed: BTreeSet<Place>,
}

fn fault(
    contract: &Contract<'_>,
    by_name: &BTreeMap<&str, &Contract<'_>>,
    linked: &Linked,
    reader: &mut Reader<'_>,
) -> Result<Option<String>, String> {
    let start = linked.symbol(contract.name)?;
    let listed = listed(contract, by_name)?;
    if listed.all {
        return Ok(None);
    }
    let changed = reader.routine(start)?;
    let out = contract.says("out");
    let Some(changed) = changed else {
        let said = out.contains("does not return");
        return Ok((!said).then(|| "it never returns, and `out` does not say so".to_owned()));
    };
    let expected: BTreeSet<_> =
        listed.named.iter().chain(&listed.allowed).chain(&results(&out)).copied().collect();
    let missing = written(changed.difference(&expected));
    let idle = if is_vector_table(contract.name) {
        String::new()
    } else {
        written(listed.named.difference(&changed))
    };
    Ok(match (missing.as_str(), idle.as_str()) {
        ("", "") => None,
        (missing, "") => Some(format!("it changes {missing}, which `clobbers` does not list")),
        ("", idle) => Some(format!("`clobbers` lists {idle}, which it does not change")),
        (missing, idle) => Some(format!(
            "it changes {missing}, which `clobbers` does not list; it does not change {idle}"
        )),
    })
}

fn written<'a>(places: impl Iterator<Item = &'a Place>) -> String {
    places.map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Parses the line `clobbers`, or the one line for all of a contract.
fn listed(
    contract: &Contract<'_>,
    by_name: &BTreeMap<&str, &Contract<'_>>,
) -> Result<Listed, String> {
    let text = contract.says("clobbers");
    let mut listed = Listed::default();
    for term in text.split(':').next().unwrap_or_default().split(',').map(str::trim) {
        if term == "all" {
            listed.all = true;
        } else if term == "as a function call" {
            listed.allowed.extend(by_a_function());
        } else if let Some(kept) = term.strip_prefix("except ") {
            let kept = range(kept).ok_or_else(|| format!("`{term}` names no register"))?;
            listed.allowed.retain(|place| !kept.contains(place));
        } else if let Some(name) = term.strip_prefix("as ").or(term.strip_prefix("or ")) {
            let other = by_name.get(name).ok_or_else(|| format!("there is no contract {name}"))?;
            let other = self::listed(other, by_name)?;
            listed.all |= other.all;
            listed.allowed.extend(other.named.into_iter().chain(other.allowed));
        } else if term != "none" {
            let places =
                range(term).ok_or_else(|| format!("`clobbers` has `{term}`, no register"))?;
            listed.named.extend(places);
        }
    }
    Ok(listed)
}

/// Returns the registers before the equals signs of `out`.
fn results(out: &str) -> BTreeSet<Place> {
    let sides: Vec<_> = out.split(" =").collect();
    let before = sides.iter().take(sides.len() - 1);
    before
        .flat_map(|side| {
            let words = side.split_whitespace().rev();
            words.map_while(|word| range(word.trim_end_matches(',')))
        })
        .flatten()
        .collect()
}

/// Parses one register, or a range such as `x9–x13`.
fn range(text: &str) -> Option<Vec<Place>> {
    let Some((first, last)) = text.split_once('–') else { return Some(vec![register(text)?]) };
    match (register(first)?, register(last)?) {
        (Place::X(first), Place::X(last)) => Some((first..=last).map(Place::X).collect()),
        (Place::Q(first), Place::Q(last)) => Some((first..=last).map(Place::Q).collect()),
        _ => None,
    }
}

fn register(text: &str) -> Option<Place> {
    if text == "flags" {
        return Some(Place::Flags);
    }
    if let Some(index) = SCRATCH.iter().position(|(name, _)| *name == text) {
        return Some(Place::Scratch(index));
    }
    let (kind, number) = text.split_at_checked(1)?;
    let number = number.parse().ok()?;
    match kind {
        "x" | "w" if number <= 30 => Some(Place::X(number)),
        "q" if number <= 31 => Some(Place::Q(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// mov x9, x0; cmp x0, #1; bl +8; ret; mov x10, #5; ret; b .
    const CODE: [u32; 7] =
        [0xaa00_03e9, 0xf100_041f, 0x9400_0002, 0xd65f_03c0, 0xd280_00aa, 0xd65f_03c0, 0x1400_0000];

    fn contract(name: &str, out: &str, clobbers: &str) -> String {
        format!(
            "// {name} — goes.\n//   in        nothing\n//   assumes   nothing\n\
             //   out       {out}\n\
             //   clobbers  {clobbers}\n//   memory    none\n{name}:\n        ret\n"
        )
    }

    /// Returns the violations of three routines: f calls g, and h stops.
    fn said(f: [&str; 2], g: &str, h: &str) -> Vec<String> {
        let mut image = vec![0; 0x1000];
        image.extend(CODE.iter().flat_map(|word| word.to_le_bytes()));
        let symbols = [("f", 0x1000), ("g", 0x1010), ("h", 0x1018)];
        let linked = Linked {
            image,
            symbols: symbols.map(|(name, address)| (name.to_owned(), address)).into(),
            marks: [(0x1000, true)].into(),
            ..Linked::default()
        };
        let text =
            [contract("f", f[0], f[1]), contract("g", "nothing", g), contract("h", h, "flags")];
        wrong(&linked, &[Text { path: "a.S".to_owned(), text: text.concat() }])
    }

    const F: [&str; 2] = ["nothing", "x9, x10, x30, flags"];
    const STOPS: &str = "does not return";

    #[test]
    fn a_list_must_be_what_the_routine_changes() {
        assert_eq!(said(F, "x10", STOPS), [""; 0]);
        assert_eq!(said(["nothing", "x9–x10, x30, flags"], "x10", STOPS), [""; 0]);
        assert_eq!(
            said(["nothing", "x9, x10, flags"], "x10", STOPS),
            ["a.S:7: f: it changes x30, which `clobbers` does not list"]
        );
        assert_eq!(
            said(["nothing", "x9–x11, x30, flags"], "x10", STOPS),
            ["a.S:7: f: `clobbers` lists x11, which it does not change"]
        );
        assert_eq!(
            said(F, "x11", STOPS),
            ["a.S:15: g: it changes x10, which `clobbers` does not list; it does not change x11"]
        );
        assert_eq!(
            said(F, "none", STOPS),
            ["a.S:15: g: it changes x10, which `clobbers` does not list"]
        );
    }

    #[test]
    fn results_stand_before_an_equals_sign() {
        let list = "x30, flags";
        assert_eq!(said(["x9, x10 = both", list], "x10", STOPS), [""; 0]);
        assert_eq!(said(["w9 = x10 = 0", list], "x10", STOPS), [""; 0]);
        assert_eq!(said(["x9 as it was; x10 = 0", list], "x10", STOPS).len(), 1);
        assert_eq!(said(["x9 = 0 if x10 was", list], "x10", STOPS).len(), 1);
    }

    #[test]
    fn a_reference_allows_and_does_not_demand() {
        assert_eq!(said(["nothing", "as g, x9, x30, flags"], "x10", STOPS), [""; 0]);
        assert_eq!(said(["nothing", "as g, x9, flags"], "x10", STOPS).len(), 1);
        assert_eq!(said(F, "as f, or h", STOPS), [""; 0]);
        assert_eq!(said(F, "as a function call", STOPS), [""; 0]);
        let kept = "as a function call, except x10: it is reserved";
        assert_eq!(
            said(F, kept, STOPS),
            ["a.S:15: g: it changes x10, which `clobbers` does not list"]
        );
        assert!(said(F, "as i", STOPS)[0].ends_with("there is no contract i"));
        assert!(said(F, "x10 and x11", STOPS)[0].contains("`x10 and x11`"));
        assert_eq!(said(F, "all", STOPS), [""; 0]);
    }

    #[test]
    fn a_routine_that_never_returns_says_so() {
        assert_eq!(
            said(F, "x10", "x0 = 1"),
            ["a.S:23: h: it never returns, and `out` does not say so"]
        );
    }

    #[test]
    fn a_routine_that_is_not_linked_is_reported() {
        let text = Text { path: "a.S".to_owned(), text: contract("f", "x0", "x9") };
        let said = wrong(&Linked::default(), &[text]);
        assert_eq!(said, ["a.S:7: f: there is no symbol f"]);
        let text = Text { path: "xtask/a.S".to_owned(), text: contract("f", "x0", "x9") };
        assert_eq!(wrong(&Linked::default(), &[text]), [""; 0]);
    }

    #[test]
    fn a_table_may_list_more_than_it_changes() {
        let ret = 0xd65f_03c0_u32.to_le_bytes();
        let linked = Linked {
            image: ret.repeat(512),
            symbols: [("f".to_owned(), 0), ("f_vectors".to_owned(), 0)].into(),
            marks: [(0, true)].into(),
            ..Linked::default()
        };
        let said = |name| {
            let text = contract(name, "nothing", "x0–x18");
            wrong(&linked, &[Text { path: "a.S".to_owned(), text }]).len()
        };
        assert_eq!((said("f"), said("f_vectors")), (1, 0));
    }
}
