//! Takes a GICv2 or GICv3 over from a previous kernel and leaves it quiet for the next one.
//!
//! The pure half says where each interrupt's bits are ([`intid`]) and how LPIs are turned off
//! ([`lpi`]). The module `driver` is for the bare-metal target.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

#[cfg(target_os = "none")]
pub mod driver;
pub mod intid;
pub mod lpi;

/// Returns a pointer to the register at `address`, which the map has 1:1.
#[cfg(target_os = "none")]
fn pointer(address: boot::phys::PhysAddr) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut(address.get() as usize)
}
