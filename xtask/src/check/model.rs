//! The check `model`: the kernel's own instructions over a memory as hostile as the architecture allows, as they are linked and with each
//! word of maintenance taken away.
//!
//! *When:* the kernel is linked. The crate `model` does it; what it finds stands in its `survivors.txt`, or fails here.

use model::{kernel::Kernel, trial};

use super::{linked::Linked, relocations};

/// What there is to see, and what is wrong.
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
