//! The linked kernel: its bytes and symbols. All addresses are as linked, from 0.

use std::collections::BTreeMap;
use std::ops::Range;

/// The parts of the kernel's ELF that the model uses.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The flat Image.
    pub image: Vec<u8>,
    /// Addresses of the pointers that RELR lists.
    pub pointers: Vec<u64>,
    symbols: BTreeMap<String, u64>,
}

/// The symbols that the scenes need.
const NEEDED: &[&str] = &[
    "_image_end",
    "boot_stack_end",
    "boot_text_end",
    "bss_end",
    "bss_start",
    "early_idmap",
    "early_tables",
    "early_tables_end",
    "efi_leave",
    "efi_leave_end",
    "entry_record",
    "exception_vectors",
    "hyp_stub_vectors",
    "relocate_code_end",
    "relocate_new_kernel",
    "relocate_page_end",
    "relocate_page_start",
    "relocate_self",
    "relr_applied",
    "secondary_entry",
    "text_end",
    "text_start",
];

impl Kernel {
    /// Makes a kernel from these bytes, symbols and pointers.
    ///
    /// # Errors
    ///
    /// Returns the name of a missing symbol. If it was renamed in the kernel, rename it here.
    pub fn new(
        image: Vec<u8>,
        symbols: BTreeMap<String, u64>,
        pointers: Vec<u64>,
    ) -> Result<Self, String> {
        let kernel = Self { image, pointers, symbols };
        let missing = NEEDED.iter().find(|name| !kernel.symbols.contains_key(**name));
        let into_rust =
            ["entry", "secondary"].into_iter().find(|module| kernel.into_rust(module).is_none());
        match missing.copied().or(into_rust) {
            None => Ok(kernel),
            Some(name) => Err(format!(
                "the kernel has no symbol {name} (or no enter_kernel of that name), by which the \
                 model is set up"
            )),
        }
    }

    /// Returns the address of a symbol listed in `NEEDED`.
    ///
    /// # Panics
    ///
    /// Panics if `NEEDED` does not list it.
    #[must_use]
    pub fn symbol(&self, name: &str) -> u64 {
        *self.symbols.get(name).unwrap_or_else(|| panic!("NEEDED does not name {name}"))
    }

    /// Returns the address at which a module of `boot` enters Rust.
    #[must_use]
    pub fn into_rust(&self, module: &str) -> Option<u64> {
        let mut named = self
            .symbols
            .iter()
            .filter(|(name, _)| name.contains("enter_kernel") && name.contains(module));
        named.next().map(|(_, address)| *address)
    }

    /// Returns the range from one symbol to another.
    #[must_use]
    pub fn range(&self, start: &str, end: &str) -> Range<u64> {
        self.symbol(start)..self.symbol(end)
    }

    /// Returns the instruction word at an address.
    #[must_use]
    pub fn word(&self, address: u64) -> u32 {
        let at = address as usize;
        u32::from_le_bytes(self.image[at..at + 4].try_into().expect("four bytes"))
    }

    /// Returns the routine that contains an address, and its start.
    ///
    /// The routine is the nearest symbol at or before the address, except for symbols that only
    /// mark the start or end of something.
    #[must_use]
    pub fn routine(&self, address: u64) -> (&str, u64) {
        let marks = |name: &str| name.ends_with("_start") || name.ends_with("_end");
        let before = self.symbols.iter().filter(|(name, at)| **at <= address && !marks(name));
        before.max_by_key(|(_, at)| **at).map_or(("", 0), |(name, at)| (name, *at))
    }
}
