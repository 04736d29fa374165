//! RAM as ranges of pages: which of them have an owner, and frames handed out of the rest.
//!
//! Each piece of memory has one owner, and comes from one place:
//!
//! | memory | from | given back |
//! |---|---|---|
//! | image, early tables, first stacks | the place that the one before us chose | never |
//! | control pages | [`layout`]: the highest free place, or a random one | never |
//! | stacks and page of each other CPU | [`layout`] | never |
//! | the heap | [`layout`], and an arena in the image's bss | never |
//! | page tables of the kernel's idmap | the heap; before RAM is mapped, its arena | never |
//! | queues and buffers of device drivers | the heap | when the device has been reset |
//! | strings, lists, this kernel's device tree | the heap | when they are dropped |
//! | page tables and list of the next kexec | the control pages | at the next attempt |
//! | sources of the next image | [`allocator`] | when the attempt is refused |
//! | the next kernel's device tree | [`allocator`] | when the attempt is refused |
//!
//! Anything whose size or lifetime depends on time is in the heap, and nothing that the next kernel
//! or a later generation can see. So a seed determines every address that is handed on, however
//! fast the host is.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod allocator;
pub mod layout;
