//! A CPU model with caches and TLBs, which runs the kernel's own instructions.
//!
//! QEMU has no caches: you can delete every `dc` and `ic`, and each run still passes. Only hardware
//! finds that mistake, perhaps years later. So we take the bytes of the kexec path, the entry and
//! the hyp-stub out of the linked kernel and interpret them here. The model ([`memory`],
//! [`system`], [`translation`]) has:
//!
//! - a D-cache that is not coherent with accesses past it;
//! - stores and maintenance that stay pending until a barrier;
//! - an I-cache and a pipeline that keep old instructions;
//! - a TLB that a previous kernel has used;
//! - system registers whose writes take effect late.
//!
//! An [`adversary`] makes every choice that the architecture leaves: lazily, eagerly, or by a seed.
//!
//! A [`scene`] is code, the state in which it is entered, and the contract that must hold at its
//! end:
//!
//! - [`restart`]: from `relocate_new_kernel` to the next image's first instruction, hot and cold,
//!   at EL1, with nVHE and with VHE. At the end the MMU and the caches are off. The image is in
//!   memory, with no dirty or older line over it, and no old instruction can be fetched. Nothing is
//!   pending, and every breadcrumb is in memory.
//! - [`entry`]: from the Image's first byte, at EL1 and EL2, to the first line of Rust. The record,
//!   tables, bss and pointers read through the map as they were written.
//! - [`mod@secondary`]: from `secondary_entry` to a secondary's first line of Rust. The contract is
//!   that of `entry`, in the map that the CPU joins.
//! - [`mod@efi`]: from `efi_leave`, with the firmware's map and caches on, to the Image's first
//!   instruction. The contract is that of `restart`, and the routine itself is in memory.
//! - [`stub`]: from an HVC to its caller, or to the address that it named. The ABI's promises hold.
//!
//! Then each maintenance instruction is [mutated](mutate): deleted, weakened, swapped with its
//! neighbour. A [`trial`] passes if a scene fails for every mutation that `survivors.txt` does not
//! list. For each mutation on its list, the file gives the reason why no scene can notice it. A
//! scene also fails at an instruction that [`mod@decode`] does not list, and at an access that its
//! contract does not allow, such as a use of the stack.
//!
//! The model does not have:
//!
//! - other CPUs, except for their speculation;
//! - exceptions, except for HVC and ERET;
//! - shareability domains other than local and system;
//! - maintenance by set and way, levels of cache, errata.
//!
//! `dc ivac` may lose a dirty line or write it back. CTR_EL0.IDC and DIC are zero.
//!
//! `cargo xtask test model/qemu` checks the interpreter against QEMU.
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
