//! The host's proof: the kernel's own instructions, over a memory as hostile as the architecture allows.
//!
//! QEMU has no caches: delete every `dc` and `ic`, and each run still passes. Hardware finds that mistake years later. So the bytes of the way
//! out, of the way in and of the hyp-stub are taken out of the linked kernel and interpreted here, between a D-cache that is not coherent with
//! what goes past it, maintenance that is pending until a barrier, an I-cache and a pipeline that remember, a TLB that a former kernel
//! has used, and system registers that take effect when they please ([`memory`], [`system`], [`translation`]). Wherever the architecture leaves
//! a choice an [`adversary`] makes it, lazily, eagerly, or by a seed.
//!
//! A [`scene`] is code, the state that it is entered in, and the contract that holds where it ends:
//!
//! | scenes | from | to | contract |
//! |---|---|---|---|
//! | [`restart`] | `relocate_enter`, hot and cold, EL1, nVHE, VHE | the next image's first instruction | MMU and caches off; the image in memory, no line above it that is dirty or older, no old instruction to fetch, nothing pending; every breadcrumb in memory |
//! | [`entry`] | the Image's first byte, at EL1 and EL2 | the first line of Rust | record, tables, bss and pointers read through the map as they were written |
//! | [`mod@secondary`] | `secondary_entry` | a secondary's first line of Rust | the same, in the map that it joins |
//! | [`mod@efi`] | `efi_leave`, with the firmware's map and caches on | the Image's first instruction | as `restart`'s, and the routine itself in memory |
//! | [`stub`] | an HVC | its caller, or the address that it named | what the ABI promises |
//!
//! Then each word of maintenance is [taken away](mutate): deleted, weakened, swapped with its neighbour. A [`trial`] passes if somebody notices, or if
//! the mutation stands in `survivors.txt` with the reason why nobody can. The closed world does the rest: an instruction that
//! [`mod@decode`] does not list, an access that no contract names, a stack, are failures.
//!
//! What it does not have: other CPUs (but for their speculation), exceptions (but for HVC and its return), shareability other than local and
//! all, set and way, levels of cache, errata. `dc ivac` may lose a dirty line or write it back. CTR_EL0.IDC and DIC are zero. That the interpreter
//! computes what a CPU computes is held against QEMU (`cargo xtask test model/qemu`).
#![forbid(unsafe_code)]

pub mod adversary;
pub mod cpu;
pub mod decode;
pub mod efi;
pub mod entry;
pub mod failure;
pub mod kernel;
pub mod memory;
pub mod mutate;
pub mod restart;
pub mod scene;
pub mod secondary;
pub mod stub;
pub mod system;
pub mod translation;
pub mod trial;
