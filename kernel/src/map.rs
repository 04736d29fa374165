//! The kernel's idmap, and the relocation idmap that the copy runs on.
//!
//! - The kernel's idmap is built in the heap's arena and replaces the early idmap. RAM is added
//!   once the memory layout is known.
//! - The relocation idmap is built in the control pages, for the relocation code alone.
//! - Leaves text RX, constants R, everything else NX. Devices are nGnRnE and NX. Guard pages and
//!   `no-map` memory are not mapped.
//! - Panics on an address beyond 48 bits.
//!
//! The switch is one write of TTBR0 with the MMU on, which changes root and ASID together. It is
//! sound for three reasons \[I4\]:
//!
//! 1. Every map has its own ASID and every leaf is nG. So no TLB entry of the old map matches under
//!    the new ASID, whatever the block sizes of both maps.
//! 2. The entry code has invalidated the TLB entries that earlier kernels left under these ASIDs.
//! 3. The kernel never translates at EL2 without E2H, where there are no ASIDs.
#![expect(
    unsafe_code,
    reason = "switches the map that this code runs on, and writes tables into control pages"
)]

use crate::error::Error;
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
use boot::uart::Uart;
use core::ops::Range;
use core::ptr::NonNull;
use relocate::{placement, tables};

const LEAF: El1Attributes =
    El1Attributes::VALID.union(El1Attributes::ACCESSED).union(El1Attributes::NON_GLOBAL);
const NEVER_EXECUTED: El1Attributes = El1Attributes::PXN.union(El1Attributes::UXN);
const NORMAL: El1Attributes =
    LEAF.union(El1Attributes::ATTRIBUTE_INDEX_1).union(El1Attributes::INNER_SHAREABLE);

/// Attributes of code: read-only, executable at the kernel's exception level.
const TEXT: El1Attributes = NORMAL.union(El1Attributes::READ_ONLY).union(El1Attributes::UXN);
/// Attributes of constants.
const READ_ONLY: El1Attributes = NORMAL.union(El1Attributes::READ_ONLY).union(NEVER_EXECUTED);
/// Attributes of other memory.
const READ_WRITE: El1Attributes = NORMAL.union(NEVER_EXECUTED);
/// Attributes of device registers.
const DEVICE: El1Attributes = LEAF.union(El1Attributes::ATTRIBUTE_INDEX_0).union(NEVER_EXECUTED);

/// Constraints for pages whose permissions change while the map is in use.
///
/// Each page has its own descriptor, so that a change needs no break-before-make.
const SINGLE_PAGES: Constraints =
    Constraints::NO_BLOCK_MAPPINGS.union(Constraints::NO_CONTIGUOUS_HINT);

/// The regions that the kernel's idmap holds at first. [`KernelIdmap::add_ram`] adds RAM.
pub struct Regions<'a> {
    /// The device registers that the kernel uses.
    pub devices: &'a [Range<PhysAddr>],
    /// The image's parts.
    pub image: &'a crate::layout::Parts,
    /// The pages to read before RAM is mapped: the FDT, and UEFI's memory map. They may overlap.
    pub read: &'a [Range<PhysAddr>],
}

/// The kernel's idmap. It is never freed: the next kernel does not use it.
#[doc(alias = "identity map")]
pub enum KernelIdmap {
    /// The EL1&0 regime, for modes el1 and nvhe.
    El1(&'static mut IdMap<El1And0>),
    /// The EL2&0 regime, for mode vhe.
    El2(&'static mut IdMap<El2And0>),
}

impl KernelIdmap {
    /// Builds the kernel's idmap and switches to it.
    ///
    /// # Safety
    ///
    /// `regions` must describe this machine and this image.
    ///
    /// # Panics
    ///
    /// If a region reaches beyond 48 bits, or if the arena is too small for the tables.
    pub unsafe fn activate(at_el2: bool, regions: &Regions<'_>) -> Self {
        if at_el2 {
            // SAFETY: our caller guarantees what `activate` requires of `regions`.
            Self::El2(unsafe { activate(El2And0, regions) })
        } else {
            // SAFETY: our caller guarantees what `activate` requires of `regions`.
            Self::El1(unsafe { activate(El1And0, regions) })
        }
    }

    /// Maps RAM without `left_out`: what is mapped already, or stays unmapped.
    ///
    /// # Safety
    ///
    /// `ram` must be RAM. It must not hold memory that may not be read speculatively.
    ///
    /// # Panics
    ///
    /// If a region reaches beyond 48 bits, or if the heap has no room for the tables.
    pub unsafe fn add_ram(&mut self, ram: &[Range<PhysAddr>], left_out: &[Range<PhysAddr>]) {
        placement::subtract(ram, left_out, |range| self.add(&range, Constraints::empty()));
    }

    /// Maps the control pages, one by one.
    ///
    /// # Safety
    ///
    /// As for [`Self::add_ram`].
    pub unsafe fn add_control(&mut self, control: &Range<PhysAddr>) {
        self.add(control, SINGLE_PAGES);
    }

    fn add(&mut self, range: &Range<PhysAddr>, constraints: Constraints) {
        let region = region(range);
        match self {
            Self::El1(map) => map.map_range_with_constraints(&region, READ_WRITE, constraints),
            Self::El2(map) => map.map_range_with_constraints(&region, READ_WRITE, constraints),
        }
        .unwrap_or_else(|error| {
            panic!("the map cannot hold {}..{}: {error}", range.start, range.end)
        });
    }

    /// Returns the value of TTBR0 for this map: root table and ASID.
    #[must_use]
    pub fn ttbr0(&self) -> u64 {
        let root = match self {
            Self::El1(map) => map.root_address(),
            Self::El2(map) => map.root_address(),
        };
        root.0 as u64 | asid::KERNEL << asid::SHIFT
    }

    /// Maps a device's registers.
    ///
    /// # Panics
    ///
    /// If the region reaches beyond 48 bits, or if it is mapped as something else.
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

    /// Makes some of the control pages read-only and executable.
    ///
    /// # Panics
    ///
    /// If the pages are not mapped one by one.
    pub fn make_executable(&mut self, pages: &Range<PhysAddr>) {
        self.protect(pages, TEXT, READ_WRITE);
    }

    /// Makes some of the control pages writable and not executable again.
    ///
    /// # Panics
    ///
    /// If the pages are not mapped one by one.
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
    let map = Box::leak(Box::new(IdMap::with_asid(asid::KERNEL as usize, ROOT_LEVEL, regime)));
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
    for range in regions.read {
        add(range, READ_WRITE, Constraints::empty());
    }
    for range in regions.devices {
        add(&range.whole_pages(), DEVICE, Constraints::empty());
    }
    // SAFETY: `activate` requires that the map holds everything this code uses, and is never
    // dropped. It holds the image with its stacks and the arena, and the FDT, and it is leaked. The
    // module's documentation says why the switch is sound. [I2, I4]
    unsafe { map.activate() };
    map
}

fn region(range: &Range<PhysAddr>) -> MemoryRegion {
    MemoryRegion::new(range.start.get() as usize, range.end.get() as usize)
}

/// A table allocator that takes control pages in ascending order.
struct ControlPages {
    free: Range<PhysAddr>,
}

impl<A: PagingAttributes> Translation<A> for ControlPages {
    fn allocate_table(&mut self) -> (NonNull<PageTable<A>>, PhysicalAddress) {
        assert!(
            !self.free.is_empty(),
            "the control pages cannot hold the relocation idmap's tables"
        );
        let table = self.free.start;
        self.free.start = table + PAGE_SIZE;
        let memory = NonNull::new(pointer(table)).expect("no control page at address 0");
        // SAFETY: `write_bytes` requires writable memory. This is one of the control pages, which
        // nothing else uses while they are staged.
        unsafe { memory.write_bytes(0, PAGE_SIZE as usize) };
        (memory.cast(), PhysicalAddress(table.get() as usize))
    }

    unsafe fn deallocate_table(&mut self, _: NonNull<PageTable<A>>) {}

    fn physical_to_virtual(&self, address: PhysicalAddress) -> NonNull<PageTable<A>> {
        NonNull::new(pointer(PhysAddr::new(address.0 as u64)).cast())
            .expect("no table at address 0")
    }
}

/// Builds the relocation idmap in `pages`, and returns its TTBR0 value and the unused tables.
///
/// It maps RAM, the relocation code, and the UART that this code prints on, if any. The regime does
/// not matter: EL1&0 and EL2&0 share one table format.
///
/// # Errors
///
/// [`Error::Tables`] if there are too few pages.
#[doc(alias = "trans_pgd")]
#[doc(alias = "identity map")]
pub fn relocation_idmap(
    ram: &[Range<PhysAddr>],
    code: &Range<PhysAddr>,
    uart: Option<&Uart>,
    pages: Range<PhysAddr>,
) -> Result<(u64, Range<PhysAddr>), Error> {
    let mut all = ram.to_vec();
    all.push(code.clone());
    all.extend(uart.map(Uart::pages));
    let (needed, given) = (tables::needed(&all), (pages.bytes() / PAGE_SIZE) as usize);
    if needed > given {
        return Err(Error::Tables { needed, given });
    }
    let pages = ControlPages { free: pages };
    let mut map = Mapping::with_asid_and_va_range(
        pages,
        asid::RELOCATION as usize,
        ROOT_LEVEL,
        El1And0,
        VaRange::Lower,
    );
    let mut add = |range: &Range<PhysAddr>, attributes| {
        let start = PhysicalAddress(range.start.get() as usize);
        map.map_range(&region(range), start, attributes, Constraints::empty()).unwrap_or_else(
            |error| {
                panic!("the relocation idmap cannot map {}..{}: {error}", range.start, range.end)
            },
        );
    };
    for range in ram {
        add(range, READ_WRITE);
    }
    add(code, TEXT);
    uart.iter().for_each(|uart| add(&uart.pages(), DEVICE));
    let free = map.translation().free.clone();
    let ttbr0 = map.root_address().0 as u64 | asid::RELOCATION << asid::SHIFT;
    // Dropping `map` would clear the tables, which the relocation code needs.
    core::mem::forget(map);
    Ok((ttbr0, free))
}
