//! The check `model`: runs the kernel's instructions over the most hostile legal memory.
//!
//! The crate `model` gives them a memory as hostile as the Arm ARM allows. It runs them as linked,
//! then with each maintenance instruction removed or changed. A change that no scene notices must
//! be on its list `survivors.txt`, or the check fails.

use model::{kernel::Kernel, trial};

use super::{linked::Linked, relocations};

/// Runs the trial; returns its table and the violations.
pub fn trial(linked: &Linked) -> (String, Vec<String>) {
    let kernel = relocations::places(linked)
        .and_then(|pointers| Kernel::new(linked.image.clone(), linked.symbols.clone(), pointers));
    match kernel {
        Ok(kernel) => {
            let outcome = trial::trial(&kernel, trial::SEEDS, trial::SURVIVORS);
            (outcome.table, outcome.wrong)
        }
        Err(lack) => (String::new(), vec![lack]),
    }
}
