//! One board: its device tree, filled in, read, handed over and edited.

use boot::phys::PhysAddr;
use fdt::blob::Blob;
use fdt::chosen::{self, SEED_BYTES};
use fdt::copy::{self, Edits, Value};
use fdt::handover::{self, Handover, Shrink};
use fdt::machine::{Error, Gic, Machine, Tree};
use fdt::node::{self, Node, number};
use serde::Serialize;

/// The result of looking for one thing.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Finding {
    /// It was found: this.
    Found(String),
    /// The tree names none.
    None(String),
    /// The tree names one, and we missed it, for this reason.
    Missed(String),
}

impl Finding {
    /// Returns whether it was found.
    pub const fn is_found(&self) -> bool {
        matches!(self, Self::Found(_))
    }

    fn of(result: Result<String, String>) -> Self {
        result.map_or_else(Self::Missed, Self::Found)
    }
}

/// One board's row.
#[derive(Debug, Serialize)]
pub struct Board {
    pub name: String,
    pub read: Finding,
    pub edited: Finding,
    pub whole: Finding,
    pub gic: Finding,
    pub timer: Finding,
    pub psci: Finding,
    pub console: Finding,
    pub runs: Finding,
}

impl Board {
    /// Takes a board's tree, as a kernel package has it, through all steps.
    pub fn of(name: String, blob: &[u8]) -> Self {
        let filled = filled(blob);
        let tree = filled.as_deref().map_err(Clone::clone);
        let tree = tree.and_then(|blob| Tree::open(blob).map_err(|error| error.to_string()));
        let machine = tree.and_then(|tree| Machine::read(&tree).map_err(|error| error.to_string()));
        let unread = |why: &String| Finding::Missed(why.clone());
        let Ok((machine, filled)) =
            machine.as_ref().and_then(|machine| filled.as_ref().map(|filled| (machine, filled)))
        else {
            let why = machine.err().unwrap_or_default();
            let [edited, whole, gic, timer, psci, console, runs] = [(); 7].map(|()| unread(&why));
            return Self {
                name,
                read: unread(&why),
                edited,
                whole,
                gic,
                timer,
                psci,
                console,
                runs,
            };
        };
        let gic = gic(machine, filled);
        let timer = timer(machine);
        let psci = psci(machine, filled);
        let console = console(machine);
        let edited = Finding::of(edited(machine, filled));
        let whole = match &machine.skipped[..] {
            [] => Finding::Found(String::new()),
            skipped => {
                let skipped: Vec<_> = skipped.iter().map(ToString::to_string).collect();
                Finding::Missed(skipped.join("; "))
            }
        };
        let has_tick = machine.timer.is_some_and(|timer| timer.virtual_el1.is_some());
        let needs = [
            ("edits", edited.is_found()),
            ("GIC", gic.is_found()),
            ("timer of a GIC", has_tick),
            ("PSCI", psci.is_found()),
            ("console", console.is_found()),
            ("CPUs", !machine.cpus.is_empty()),
        ];
        let lacks: Vec<_> =
            needs.iter().filter(|(_, is_there)| !is_there).map(|(name, _)| *name).collect();
        let runs = match &lacks[..] {
            [] => Finding::Found(String::new()),
            lacks => Finding::Missed(format!("no {}", lacks.join(", no "))),
        };
        let read = Finding::Found(format!("{} CPUs", machine.cpus.len()));
        Self { name, read, edited, whole, gic, timer, psci, console, runs }
    }
}

/// Fills in /chosen and, where the tree names no RAM, RAM where its memory node begins.
fn filled(blob: &[u8]) -> Result<Vec<u8>, String> {
    let with = |blob: &[u8], edits: &Edits<'_>| {
        let blob = Blob::new(blob).map_err(str::to_owned)?;
        copy::to_vec(&blob, edits).map_err(|error| error.to_string())
    };
    let new = [("bootargs", Value::Text(&"generations=2"))];
    let chosen = Some(copy::Chosen { new: &new, is_stale: |_| false });
    let filled = with(blob, &Edits { chosen, ..Edits::default() })?;
    let tree = Tree::open(&filled).map_err(|error| error.to_string())?;
    if Machine::read(&tree).err() != Some(Error::NoRam) {
        return Ok(filled);
    }
    let ram = ram(&filled);
    with(&filled, &Edits { memory: Some(&|visit| visit(ram.clone())), ..Edits::default() })
}

/// Returns RAM for a board: 1 GiB from the start of its memory node, or from 2 GiB on.
fn ram(blob: &[u8]) -> std::ops::Range<PhysAddr> {
    let root = Blob::new(blob).ok().and_then(|blob| Node::root(&blob));
    let cells = root.as_ref().and_then(|root| root.cell("#address-cells")).unwrap_or(2);
    let reg = root.as_ref().and_then(|root| root.child(b"memory")?.property("reg"));
    let start = reg.and_then(|reg| reg.get(..4 * cells as usize)).map(number);
    let start = PhysAddr::new(start.unwrap_or(0x8000_0000));
    start..start + (1 << 30)
}

/// Hands the tree over and edits it; the machine must stay the same.
fn edited(machine: &Machine, blob: &[u8]) -> Result<String, String> {
    let read = |blob: &[u8]| {
        let tree = Tree::open(blob).map_err(|error| error.to_string())?;
        Machine::read(&tree).map_err(|error| error.to_string())
    };
    let mut shrunk =
        handover::shrink(blob, Shrink::default()).map_err(|error| error.to_string())?;
    let numbers = Handover {
        generation: 1,
        seed: 2,
        base: PhysAddr::new(3 << 21),
        breadcrumbs: PhysAddr::new(4096),
    };
    numbers.write(&mut shrunk).map_err(|error| error.to_string())?;
    let tree = Tree::open(&shrunk).map_err(|error| error.to_string())?;
    if Handover::read(&tree) != Some(numbers) {
        return Err("the hand-over loses its numbers".to_owned());
    }
    if read(&shrunk)? != *machine {
        return Err("the hand-over describes another machine".to_owned());
    }
    let initrd = PhysAddr::new(0x4800_0000)..PhysAddr::new(0x4900_0001);
    let new = chosen::Chosen {
        memory: None,
        bootargs: Some("console=ttyAMA0"),
        initrd: Some(initrd.clone()),
        seeds: Some([7; SEED_BYTES]),
    };
    let written = chosen::write(blob, &new).map_err(|error| error.to_string())?;
    let tree = Tree::open(&written).map_err(|error| error.to_string())?;
    if tree.bootargs() != b"console=ttyAMA0" || tree.initrd() != Some(initrd) {
        return Err("/chosen is not what was written".to_owned());
    }
    // The initrd's reservation is new.
    let mut after = read(&written)?;
    after.reserved.clone_from(&machine.reserved);
    if after != *machine {
        return Err("the edits of /chosen describe another machine".to_owned());
    }
    Ok(format!("{} bytes", shrunk.len()))
}

/// Returns the available nodes of a tree that have a `compatible` that `is` accepts.
fn named(blob: &[u8], is: impl Fn(&str) -> bool) -> Option<String> {
    let blob = Blob::new(blob).ok()?;
    let mut compatibles = node::nodes(&blob).filter(Node::is_available).filter_map(|node| {
        let list = node.property("compatible")?;
        node::strings(list).filter_map(|one| str::from_utf8(one).ok()).find(|one| is(one))
    });
    compatibles.next().map(ToOwned::to_owned)
}

fn gic(machine: &Machine, blob: &[u8]) -> Finding {
    match &machine.gic {
        Some(Gic::V2 { distributor, .. }) => Finding::Found(format!("v2 at {}", distributor.start)),
        Some(Gic::V3 { distributor, .. }) => Finding::Found(format!("v3 at {}", distributor.start)),
        None => {
            let is_gic = |one: &str| {
                let parts: Vec<_> = one.split([',', '-']).collect();
                (parts.contains(&"gic") || one == "arm,pl390") && !parts.contains(&"its")
            };
            let none = || Finding::None("no GIC".to_owned());
            named(blob, is_gic).map_or_else(none, Finding::Missed)
        }
    }
}

fn timer(machine: &Machine) -> Finding {
    match machine.timer {
        Some(timer) if timer.virtual_el1.is_some() => Finding::Found("PPIs of the GIC".to_owned()),
        Some(_) => Finding::Found("of another controller than a GIC".to_owned()),
        None => Finding::None("no generic timer".to_owned()),
    }
}

fn psci(machine: &Machine, blob: &[u8]) -> Finding {
    match machine.psci {
        Some(psci) => Finding::Found(format!("{:?}", psci.conduit)),
        None => match named(blob, |one| one.starts_with("arm,psci")) {
            Some(name) => Finding::Missed(name),
            None => Finding::None("no PSCI".to_owned()),
        },
    }
}

fn console(machine: &Machine) -> Finding {
    match (&machine.console, &machine.console_error) {
        (Some(console), _) => Finding::Found(format!("{:?} at {}", console.kind, console.base)),
        (None, Some(error)) => Finding::Missed(error.to_string()),
        (None, None) => Finding::None("no stdout-path".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use boot::phys::PhysRange;

    #[test]
    fn a_tree_without_ram_and_chosen_is_filled_in() {
        let mut tree = dtoolkit::model::DeviceTree::new();
        let add = |node: &mut dtoolkit::model::DeviceTreeNode, name: &str, value: Vec<u8>| {
            node.add_property(dtoolkit::model::DeviceTreeProperty::new_unchecked(name, value));
        };
        let mut memory = dtoolkit::model::DeviceTreeNode::new("memory@40000000").unwrap();
        add(&mut memory, "reg", [0, 0x4000_0000_u32, 0].map(u32::to_be_bytes).concat());
        tree.root.add_child(memory);
        let board = Board::of("small".to_owned(), &tree.to_dtb());
        assert!(board.read.is_found() && board.edited.is_found(), "{board:?}");
        assert!(!board.runs.is_found() && board.whole.is_found(), "{board:?}");
        let blob = filled(&tree.to_dtb()).unwrap();
        let ram = Machine::read(&Tree::open(&blob).unwrap()).unwrap().ram;
        assert_eq!((ram[0].start.get(), ram[0].bytes()), (0x4000_0000, 1 << 30));
        let board = Board::of("damaged".to_owned(), &[0; 64]);
        assert_eq!((&board.read, &board.runs), (&board.gic, &board.console));
        assert!(!board.read.is_found());
    }
}
