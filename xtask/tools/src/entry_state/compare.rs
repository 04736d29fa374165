//! The comparison of cold and warm entry states, register by register, against the list.
//!
//! It also checks the list itself over all runs: an entry or a bit that never differs must be
//! removed.

use super::{
    Registers,
    allowed::{ALLOWED, Allowed, Seen},
    registers::is_identification,
};

/// One register, with its value in each generation of a run.
#[derive(Clone, Debug)]
pub struct Row {
    /// Name as in the Arm ARM.
    pub name: String,
    /// Values: the cold one, then that of each later generation.
    pub values: Vec<u64>,
    /// The register's entry on the list.
    pub allowed: Option<&'static Allowed>,
}

impl Row {
    /// Returns the bits that differ from the cold value in some generation.
    pub fn differs(&self) -> u64 {
        self.values.iter().fold(0, |bits, value| bits | (value ^ self.values[0]))
    }

    /// Returns the differing bits that the list does not allow.
    pub fn beyond(&self) -> u64 {
        self.differs() & !self.allowed.map_or(0, |allowed| allowed.bits)
    }

    /// Reports whether the register only identifies the CPU.
    pub fn is_identification(&self) -> bool {
        is_identification(&self.name)
    }
}

/// Returns one row for each register of the first state.
pub fn rows(states: &[Registers]) -> Vec<Row> {
    let Some(cold) = states.first() else { return Vec::new() };
    let row = |name: &String| {
        // A register that is missing in some generation differs in every bit.
        let values = states
            .iter()
            .map(|state| state.0.get(name).copied().unwrap_or(!cold.0[name]))
            .collect();
        let allowed = ALLOWED.iter().find(|allowed| allowed.registers.contains(&name.as_str()));
        Row { name: name.clone(), values, allowed }
    };
    cold.0.keys().map(row).collect()
}

/// Returns a sentence for each register that differs in a way that the list does not allow.
pub fn broken(rows: &[Row]) -> Vec<String> {
    let sentence = |row: &Row| {
        let values: Vec<_> = row.values.iter().map(|value| format!("{value:#x}")).collect();
        let list = if row.allowed.is_some() {
            "its entry on the list leaves out"
        } else {
            "the list has no entry for"
        };
        format!(
            "{} is {} in turn: {list} the bits {:#x}",
            row.name,
            values.join(", "),
            row.beyond()
        )
    };
    rows.iter().filter(|row| row.beyond() != 0).map(sentence).collect()
}

/// Returns a sentence for each list entry that allows more than these rows need.
pub fn too_much<'a>(rows: impl IntoIterator<Item = &'a Row> + Clone) -> Vec<String> {
    allows_too_much(ALLOWED, rows)
}

fn allows_too_much<'a>(
    list: &[Allowed],
    rows: impl IntoIterator<Item = &'a Row> + Clone,
) -> Vec<String> {
    let mut sentences = Vec::new();
    for Allowed { registers, bits, seen, .. } in list {
        let of_it = rows.clone().into_iter().filter(|row| registers.contains(&row.name.as_str()));
        let differed = of_it.fold(0, |differed, row| differed | row.differs());
        let name = registers[0];
        if differed == 0 {
            sentences.push(format!("{name} is on the list and differs nowhere: take it off"));
        } else if *seen == Seen::Always && differed & bits != *bits {
            let unused = bits & !differed;
            sentences.push(format!(
                "{name}: the bits {unused:#x} are on the list and differ nowhere: take them off"
            ));
        }
    }
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &[Allowed] = &[
        Allowed { registers: &["A"], bits: 0b11, seen: Seen::Always, reason: "" },
        Allowed { registers: &["B", "C"], bits: u64::MAX, seen: Seen::ByChance, reason: "" },
    ];

    fn row(name: &str, values: [u64; 2]) -> Row {
        Row {
            name: name.to_owned(),
            values: values.into(),
            allowed: LIST.iter().find(|one| one.registers.contains(&name)),
        }
    }

    #[test]
    fn a_difference_that_is_not_listed_is_reported() {
        let all = [row("A", [0, 0b11]), row("C", [1, 2]), row("D", [7, 7])];
        assert_eq!(broken(&all), [""; 0]);
        assert!(broken(&[row("A", [0, 0b100])])[0].ends_with("leaves out the bits 0x4"));
        assert!(
            broken(&[row("D", [0x10, 0])])[0]
                .contains("D is 0x10, 0x0 in turn: the list has no entry for the bits 0x10")
        );
    }

    #[test]
    fn an_entry_or_a_bit_that_nothing_needs_is_reported() {
        assert_eq!(allows_too_much(LIST, &[row("A", [0, 0b11]), row("C", [0, 1])]), [""; 0]);
        assert_eq!(
            allows_too_much(LIST, &[row("A", [0, 0b01]), row("A", [0, 0b10]), row("C", [0, 1])]),
            [""; 0]
        );
        assert!(
            allows_too_much(LIST, &[row("A", [0, 0b10]), row("C", [0, 1])])[0]
                .contains("A: the bits 0x1 ")
        );
        assert!(
            allows_too_much(LIST, &[row("A", [0, 0b11]), row("C", [1, 1])])[0]
                .contains("B is on the list")
        );
    }

    #[test]
    fn a_register_that_goes_missing_differs() {
        let state =
            |names: &[&str]| Registers(names.iter().map(|&name| (name.to_owned(), 0)).collect());
        let rows = rows(&[state(&["E", "F"]), state(&["E"])]);
        assert_eq!((rows[0].differs(), rows[1].beyond()), (0, u64::MAX));
    }
}
