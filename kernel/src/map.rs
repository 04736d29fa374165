//! The kernel's identity map, and the one that the copy runs on.
//!
//! *When:* the first is built from the arena and switched to first of all; RAM is added once it is known what of it is ours. The second is staged in the control pages. *On
//! entry:* the early map. *Leaves:* text RX, constants R, everything else NX, devices nGnRE and NX, guard pages and no-map memory not
//! mapped at all. *Refuses:* an address beyond 48 bits.
//!
//! The switch is one write of TTBR0, root and ASID together, under the MMU's feet. It is sound because every map has an ASID of its own and
//! every leaf of every map is nG: no translation of the old map can be used under the new ASID, whatever their block sizes, and
//! the entry has invalidated what former kernels left under the same numbers. \[I4\] The kernel never translates at EL2 without
//! E2H, where there are no ASIDs.
#![expect(
    unsafe_code,
    reason = "switches the map that this code runs on, and writes tables into control pages"
)]

use crate::memory::pointer;
use aarch64_paging::Mapping;
use aarch64_paging::descriptor::{El1Attributes, PagingAttributes, PhysicalAddress};
use aarch64_paging::idmap::IdMap;
use aarch64_paging::paging::{
    Constraints, El1And0, El2And0, MemoryRegion, PageTable, Translation, TranslationRegime, VaRange,
};
use alloc::boxed::Box;
use boot::phys::{PAGE_SIZE, PhysAddr, PhysRange};
use boot::sysreg::{ROOT_LEVEL, asid};
use core::ops::Range;
use core::ptr::NonNull;
use relocate::placement;

const LEAF: El1Attributes =
    El1Attributes::VALID.union(El1Attributes::ACCESSED).union(El1Attributes::NON_GLOBAL);
const NEVER_EXECUTED: El1Attributes = El1Attributes::PXN.union(El1Attributes::UXN);
const NORMAL: El1Attributes =
    LEAF.union(El1Attributes::ATTRIBUTE_INDEX_1).union(El1Attributes::INNER_SHAREABLE);

/// Code: read-only, executable at the kernel's level.
const TEXT: El1Attributes = NORMAL.union(El1Attributes::READ_ONLY).union(El1Attributes::UXN);
/// Constants.
const READ_ONLY: El1Attributes = NORMAL.union(El1Attributes::READ_ONLY).union(NEVER_EXECUTED);
/// Memory.
const READ_WRITE: El1Attributes = NORMAL.union(NEVER_EXECUTED);
/// A device's registers.
const DEVICE: El1Attributes = LEAF.union(El1Attributes::ATTRIBUTE_INDEX_0).union(NEVER_EXECUTED);

/// Pages whose permissions change while the map is live: each its own descriptor, so that no change needs break-before-make.
const SINGLE_PAGES: Constraints =
    Constraints::NO_BLOCK_MAPPINGS.union(Constraints::NO_CONTIGUOUS_HINT);

/// What the map is made of at first. RAM is added when it is known which of it is ours.
pub struct Regions<'a> {
    /// Device registers that are used.
    pub devices: &'a [Range<PhysAddr>],
    /// The image's parts.
    pub image: &'a crate::image::Parts,
    /// The pages of the device tree that was handed over.
    pub tree: &'a Range<PhysAddr>,
}

/// The kernel's map. It lives as long as the kernel: the next one never sees it.
pub enum LifeMap {
    /// EL1&0: modes el1 and nvhe.
    El1(&'static mut IdMap<El1And0>),
    /// EL2&0: mode vhe.
    El2(&'static mut IdMap<El2And0>),
}

impl LifeMap {
    /// Builds the kernel's map and switches to it.
    ///
    /// # Safety
    ///
    /// `regions` describe this machine and this image.
    ///
    /// # Panics
    ///
    /// A region beyond 48 bits, or more tables than the arena holds.
    pub unsafe fn activate(at_el2: bool, regions: &Regions<'_>) -> Self {
        if at_el2 {
            // SAFETY: as our caller promised.
            Self::El2(unsafe { activate(El2And0, regions) })
        } else {
            // SAFETY: as our caller promised.
            Self::El1(unsafe { activate(El1And0, regions) })
        }
    }

    /// Adds RAM, which is not mapped yet but for image and device tree: those and the `guards`, below each stack, are among what is `left_out`.
    /// The control block is mapped by single pages.
    ///
    /// # Safety
    ///
    /// RAM is what it is called, and holds nothing that must not be read speculatively.
    ///
    /// # Panics
    ///
    /// A region beyond 48 bits, or more tables than the arena holds.
    pub unsafe fn add_ram(
        &mut self,
        ram: &[Range<PhysAddr>],
        left_out: &[Range<PhysAddr>],
        control: &Range<PhysAddr>,
    ) {
        let mut add = |range: &Range<PhysAddr>, constraints| {
            let region = region(range);
            match self {
                Self::El1(map) => map.map_range_with_constraints(&region, READ_WRITE, constraints),
                Self::El2(map) => map.map_range_with_constraints(&region, READ_WRITE, constraints),
            }
            .unwrap_or_else(|error| {
                panic!("the map cannot hold {}..{}: {error}", range.start, range.end)
            });
        };
        let mut holes = left_out.to_vec();
        holes.push(control.clone());
        placement::subtract(ram, &holes, |range| add(&range, Constraints::empty()));
        add(control, SINGLE_PAGES);
    }

    /// What TTBR0 holds in this map: root and ASID.
    #[must_use]
    pub fn ttbr0(&self) -> u64 {
        let root = match self {
            Self::El1(map) => map.root_address(),
            Self::El2(map) => map.root_address(),
        };
        root.0 as u64 | asid::LIFE << asid::SHIFT
    }

    /// Adds a device's registers, which are not mapped yet.
    ///
    /// # Panics
    ///
    /// A region beyond 48 bits, or one that is mapped as something else.
    pub fn add_device(&mut self, range: &Range<PhysAddr>) {
        let region = region(range);
        match self {
            Self::El1(map) => map.map_range(&region, DEVICE),
            Self::El2(map) => map.map_range(&region, DEVICE),
        }
        .unwrap_or_else(|error| {
            panic!("the map cannot hold {}..{}: {error}", range.start, range.end)
        });
    }

    /// Makes single pages of the control block code: read-only and executable.
    ///
    /// # Panics
    ///
    /// Where the pages are not mapped one by one.
    pub fn make_executable(&mut self, pages: &Range<PhysAddr>) {
        self.protect(pages, TEXT, READ_WRITE);
    }

    /// Makes single pages of the control block memory again.
    ///
    /// # Panics
    ///
    /// Where the pages are not mapped one by one.
    pub fn make_writable(&mut self, pages: &Range<PhysAddr>) {
        self.protect(pages, READ_WRITE, TEXT);
    }

    fn protect(&mut self, pages: &Range<PhysAddr>, to: El1Attributes, from: El1Attributes) {
        let region = region(pages);
        let change = |_: &MemoryRegion,
                      leaf: &mut aarch64_paging::descriptor::UpdatableDescriptor<
            '_,
            El1Attributes,
        >| { leaf.modify_flags(to, from - to) };
        match self {
            Self::El1(map) => map.modify_range(&region, &change),
            Self::El2(map) => map.modify_range(&region, &change),
        }
        .unwrap_or_else(|error| panic!("control pages are not mapped one by one: {error}"));
    }
}

unsafe fn activate<R>(regime: R, regions: &Regions<'_>) -> &'static mut IdMap<R>
where
    R: TranslationRegime<Attributes = El1Attributes, Asid = usize, VaRange = VaRange>,
{
    let map = Box::leak(Box::new(IdMap::with_asid(asid::LIFE as usize, ROOT_LEVEL, regime)));
    let mut add = |range: &Range<PhysAddr>, attributes, constraints| {
        map.map_range_with_constraints(&region(range), attributes, constraints).unwrap_or_else(
            |error| panic!("the map cannot hold {}..{}: {error}", range.start, range.end),
        );
    };
    add(&regions.image.whole, READ_WRITE, Constraints::empty());
    add(&regions.image.text, TEXT, Constraints::empty());
    add(&regions.image.constants, READ_ONLY, Constraints::empty());
    for guard in &regions.image.guards {
        add(guard, El1Attributes::empty(), Constraints::empty());
    }
    add(regions.tree, READ_WRITE, Constraints::empty());
    for range in regions.devices {
        add(&range.whole_pages(), DEVICE, Constraints::empty());
    }
    // SAFETY: the map holds the image as it is used, with its stacks and the arena, and the device tree; it is never dropped. The switch is sound,
    // see the module's page. [I4]
    unsafe { map.activate() };
    map
}

fn region(range: &Range<PhysAddr>) -> MemoryRegion {
    MemoryRegion::new(range.start.0 as usize, range.end.0 as usize)
}

/// Tables out of the control block, one page after the other.
struct ControlPages {
    free: Range<PhysAddr>,
}

impl<A: PagingAttributes> Translation<A> for ControlPages {
    fn allocate_table(&mut self) -> (NonNull<PageTable<A>>, PhysicalAddress) {
        assert!(!self.free.is_empty(), "the control block is too small for the copy's tables");
        let table = self.free.start;
        self.free.start = PhysAddr(table.0 + PAGE_SIZE);
        let memory = NonNull::new(pointer(table)).expect("no control page at address 0");
        // SAFETY: the page is the control block's, which nothing else uses while it is staged.
        unsafe { memory.write_bytes(0, PAGE_SIZE as usize) };
        (memory.cast(), PhysicalAddress(table.0 as usize))
    }

    unsafe fn deallocate_table(&mut self, _: NonNull<PageTable<A>>) {}

    fn physical_to_virtual(&self, address: PhysicalAddress) -> NonNull<PageTable<A>> {
        NonNull::new(pointer(PhysAddr(address.0 as u64)).cast()).expect("no table at address 0")
    }
}

/// Builds the copy's map in `tables`: RAM to copy in, the relocation code, its UART. Returns its TTBR0 and the tables that are left.
///
/// The regime does not matter: EL1&0 and EL2&0 have one format.
///
/// # Panics
///
/// Where `tables` are too few.
pub fn copy_map(
    ram: &[Range<PhysAddr>],
    code: &Range<PhysAddr>,
    uart: &Range<PhysAddr>,
    tables: Range<PhysAddr>,
) -> (u64, Range<PhysAddr>) {
    let pages = ControlPages { free: tables };
    let mut map = Mapping::with_asid_and_va_range(
        pages,
        asid::COPY as usize,
        ROOT_LEVEL,
        El1And0,
        VaRange::Lower,
    );
    let mut add = |range: &Range<PhysAddr>, attributes| {
        let start = PhysicalAddress(range.start.0 as usize);
        map.map_range(&region(range), start, attributes, Constraints::empty()).unwrap_or_else(
            |error| panic!("the copy's map cannot hold {}..{}: {error}", range.start, range.end),
        );
    };
    for range in ram {
        add(range, READ_WRITE);
    }
    add(code, TEXT);
    add(&uart.whole_pages(), DEVICE);
    let free = map.translation().free.clone();
    let ttbr0 = map.root_address().0 as u64 | asid::COPY << asid::SHIFT;
    // The tables are for the relocation code: taking them down with the object that built them would empty them.
    core::mem::forget(map);
    (ttbr0, free)
}
