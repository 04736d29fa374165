// The Image header, and all code from the loader's jump to the first line of Rust.
//
// `entry` does these steps in order; entry.rs lists what is true when Rust starts:
//
//   1. take_over       refuse any level but EL1 and EL2; install vectors that report exceptions;
//                      clear SCTLR.EE (little-endian); refuse an Image that is off its page
//   2. record          store what the loader passed, before we change it
//   3. el2_setup       at EL2 only: stop its traps of EL1, leave the hyp-stub, drop to EL1
//   4. cpu_setup       bring EL1 into a known state, MMU and caches off
//   5. early_idmap     build the early idmap: this image, the FDT, the early console's UART
//   6. mmu_on          turn the MMU and the caches on
//   7. relocate_self   after the stack and a cleared bss: relocate the pointers in the image
//   8. enter_kernel    install Rust's vectors, unmask SError, and call Rust

        .section .head, "ax"

// _start — holds the Image header (Linux, Documentation/arch/arm64/booting.rst); jumps to entry.
//   in        x0 = device tree (FDT), physical, 8-byte aligned; x1 = x2 = x3 = 0
//   assumes   EL2 or EL1, MMU off, D-cache off, DAIF masked; a VHE kernel may have set E2H  [I1]
//   out       does not return; continues at entry
//   clobbers  flags
//   memory    touches none
        .global _start
_start:
        // code0: the bytes "MZ", which a PE loader looks for. A CPU executes them as a harmless
        // ccmp, which changes nothing but the flags. code1 is the branch.
        ccmp    x18, #0, #0xd, pl
        b       entry
        .quad   0                               // text_offset: directly at a 2 MiB boundary
        .quad   _image_size                     // image_size: file, bss and stacks
        .quad   {FLAGS}
        .quad   0, 0, 0
        .ascii  "ARM\x64"
        .long   _pe_offset                      // 0, or the PE header's offset in this page

        .section .text.boot, "ax"

        // Installs vectors that can print, before anything can fault. Clears EE before the first
        // store, because the loader may have run big-endian. Keeps the previous values for the
        // entry record: VBAR in x10, SCTLR in x12. Clobbers x11.
        .macro  take_over level, vectors
        mrs     x10, vbar_\level
        adr_l   x11, \vectors
        msr     vbar_\level, x11
        mrs     x12, sctlr_\level
        bic     x11, x12, #{EE}
        msr     sctlr_\level, x11
        .endm

        // Stores a system register in a field of the entry record. x4 = the record. Clobbers x6.
        .macro  record field, register
        mrs     x6, \register
        str     x6, [x4, #\field]
        .endm

        // Stores CNTVCT_EL0 in a field of the entry record. The ISB keeps the CPU from reading the
        // counter before the preceding instructions are done. Clobbers x9, x10.
        .macro  stamp field
        isb
        mrs     x9, cntvct_el0
        adr_l   x10, entry_record
        str     x9, [x10, #\field]
        .endm

// entry — brings the CPU from any state that the boot protocol allows to Rust.
//   in        as _start
//   assumes   as _start  [I1]
//   out       does not return; kernel_main(entry record) at EL1h, MMU and caches on, SError
//             unmasked, in the early idmap
//   clobbers  all
//   memory    MMU off: writes entry_record and early_tables, on a failure boot_percpu and
//             failure_record; reads 8 bytes of the FDT. MMU on: writes bss and the pointers that
//             RELR names
entry:
        // There is no stack yet. SP points to the per-CPU page, which begins with the frame that
        // the early console saves registers in.
        mrs     x13, SPSel
        msr     SPSel, #1
        adr_l   x11, boot_percpu
        mov     sp, x11
        mrs     x9, CurrentEL
        cmp     x9, #{CURRENT_EL2}
        b.eq    .Lentry_el2
        cmp     x9, #{CURRENT_EL1}
        b.eq    .Lentry_el1
        mov     x20, x9
        fail_because {REASON_LEVEL}
        early_uart
        say_broken early_console, #{LEVEL}, ": entered at neither EL1 nor EL2: CurrentEL="
        mov     x0, x20
        bl      early_console_hex
        b       early_stop
.Lentry_el1:
        take_over el1, early_vectors
        b       .Lentry_record
.Lentry_el2:
        take_over el2, hyp_stub_vectors
        // The new VBAR and SCTLR take effect before the next instruction.
.Lentry_record:
        isb
        // adr_l is right only where the Image begins at a page boundary, as it is linked. If it
        // does not, SP and VBAR are wrong already: take no exception, and print by adr alone.
        adr     x6, _start
        tst     x6, #({PAGE_SIZE} - 1)
        b.ne    .Lentry_off_its_page

        // Record the state of the first instruction before we change anything but SP, the vectors
        // and the byte order.
        adr_l   x4, entry_record
        stp     x0, x1, [x4, #{X0}]
        stp     x2, x3, [x4, #{X2}]
        str     x6, [x4, #{LOAD_ADDRESS}]
        record  {ENTERED}, cntvct_el0
        record  {CURRENT_EL}, CurrentEL
        record  {DAIF}, daif
        str     x13, [x4, #{SP_SEL}]
        str     x10, [x4, #{VBAR}]
        str     x12, [x4, #{SCTLR}]
        record  {CNTFRQ}, cntfrq_el0
        record  {MIDR}, midr_el1
        record  {MPIDR}, mpidr_el1
        mov     x20, x0
        cmp     x9, #{CURRENT_EL2}
        b.ne    .Lentry_set_up

        // EL2: stop its traps of EL1, leave the hyp-stub there, and continue at EL1.
        record  {HCR_EL2}, hcr_el2
        record  {CNTVOFF_EL2}, cntvoff_el2
        bl      el2_setup
        adr_l   x9, entry_record
        str     x0, [x9, #{HCR_EL2_IN_EFFECT}]
        stamp   {EL2_READY}

.Lentry_set_up:
        bl      cpu_setup
        mov     x0, x20
        bl      early_idmap
        bl      mmu_on
        stamp   {MMU_ON}

        // Loads and stores are cached from here on, as Rust's will be. Set up the stack and the
        // per-CPU pointer, clear bss, and relocate the pointers that the image holds.
        adr_l   x9, boot_stack_end
        mov     sp, x9
        adr_l   x9, boot_percpu
        msr     tpidr_el1, x9
        adr_l   x9, bss_start
        adr_l   x10, bss_end
1:      stp     xzr, xzr, [x9], #16
        cmp     x9, x10
        b.lo    1b
        adr_l   x0, _start
        bl      relocate_self

        // Rust's vectors take every exception from its first line on.
        adr_l   x9, exception_vectors
        msr     vbar_el1, x9
        isb
        // Unmask SError: this kernel reports an asynchronous abort when it happens. Left masked, it
        // would stay pending for the next kernel. IRQ and FIQ stay masked until there is a handler.
        msr     daifclr, #{DAIF_A}
        adr_l   x0, entry_record
        mov     x29, xzr
        bl      {KERNEL_MAIN}
        b       early_stop
.Lentry_off_its_page:
        // Without a UART, say nothing: the printer and early_stop would look for the failure record
        // by adr_l.
        mov     x20, x6
        adr     x8, early_uart_of_image
        ldr     x9, [x8, #{UART_STATUS}]
        cbz     x9, early_silence
        say_marker early_console, broken
        say     early_console, "{PLACED}: the Image does not begin at a page boundary: _start=", x20
        say_stopped early_console
        b       early_silence

// cpu_setup — brings EL1 into a known state: MMU and caches off, FP on, vectors that print.
//   in        nothing
//   assumes   EL1, running from memory that is mapped 1:1 if the MMU is on at all
//   out       EL1h, DAIF masked; SCTLR_EL1, CPACR_EL1, VBAR_EL1, TCR2_EL1, SCTLR2_EL1 known
//   clobbers  x9
//   memory    touches none
        .global cpu_setup
cpu_setup:
        adr_l   x9, early_vectors
        msr     vbar_el1, x9
        msr     daifset, #{DAIF_ALL}
        // Use SP_EL1, whichever SP PSCI or the loader selected: at EL1t the CPU would take
        // exceptions through a different part of the vector table.
        msr     SPSel, #1
        mov_q   x9, {SCTLR_EL1_MMU_OFF}
        msr     sctlr_el1, x9
        mov_q   x9, {CPACR}
        msr     cpacr_el1, x9
        // All of this takes effect before the caller's next access, and before compiled code, which
        // may use FP registers anywhere.
        isb
        // Touch FPCR now: if EL2 or EL3 traps FP we fault here, where the early console works.
        // Rust's handler may itself need FP registers.
        mrs     x9, fpcr
        // Turn off later translation features, which a previous kernel may have enabled.
        unless_feature id_aa64mmfr3_el1, {TCRX}, 1f
        msr     tcr2_el1, xzr
1:      unless_feature id_aa64mmfr3_el1, {SCTLRX}, 2f
        msr     sctlr2_el1, xzr
2:      ret

// mmu_on — turns this CPU's EL1 MMU and caches on.
//   in        x0 = TTBR0_EL1: root table, physical, 4 KiB aligned, and its ASID
//   assumes   EL1h, MMU off; the tables map this code 1:1 and executable; no cache holds a line of
//             the tables, or a CPU that shares its caches with this one wrote them  [I2, I4, I5]
//   out       MMU, D-cache and I-cache on
//   clobbers  x9, x10, flags
//   memory    touches none
        .global mmu_on
mmu_on:
        // Drop every EL1&0 translation that a previous kernel left. The dsb completes this before
        // the MMU can cache the first of ours.
        tlbi    vmalle1
        dsb     nsh
        mov_q   x9, {MAIR}
        msr     mair_el1, x9
        // IPS = this CPU's physical address size, at most the 48 bits that our descriptors hold.
        mov_q   x9, {TCR}
        mrs     x10, id_aa64mmfr0_el1
        and     x10, x10, #{PARANGE}
        cmp     x10, #{IPS_48_BITS}
        b.ls    1f
        mov     x10, #{IPS_48_BITS}
1:      orr     x9, x9, x10, lsl #{IPS_SHIFT}
        msr     tcr_el1, x9
        msr     ttbr0_el1, x0
        msr     ttbr1_el1, xzr
        // Every register that a table walk uses takes effect before the MMU is on.
        isb
        mov_q   x9, {SCTLR_MMU_ON}
        msr     sctlr_el1, x9
        // The MMU is on before the next fetch. The I-cache needs no invalidation: what the CPU
        // fetched with the D-cache off is the same text.  [I1]
        isb
        ret

// early_idmap — builds the early idmap: this image, the FDT, and the early console's UART if any.
//   in        x0 = FDT, physical
//   assumes   MMU off; nothing else uses early_tables  [I5]
//   out       x0 = TTBR0_EL1 for mmu_on
//   clobbers  x0–x15, x30, flags
//   memory    writes early_tables and the record's dtb_size; reads the FDT's first 8 bytes
early_idmap:
        mov     x14, x30
        mov     x15, x0
        // early_tables is after the end of the file, so no loader has cleaned it. Clean and
        // invalidate it before we store there: a dirty line would later overwrite the tables. The
        // dsb completes that before the first zero is stored.  [I5]
        adr_l   x12, early_tables
        adr_l   x13, early_tables_end
        dcache_line x5, x6
        mov     x8, x12
        dcache_by_line civac, x8, x13, x5, x6
        dsb     sy
        mov     x8, x12
1:      stp     xzr, xzr, [x8], #16
        cmp     x8, x13
        b.lo    1b
        add     x13, x12, #{PAGE_SIZE}          // next free table; x12 = the root

        // Map the image by 4 KiB pages and nothing beyond it: text is executable, the rest is
        // writable, no page is both.
        adr_l   x0, _start
        adr_l   x1, text_start
        mov_q   x2, {DATA}
        bl      map_pages
        adr_l   x1, text_end
        mov_q   x2, {TEXT}
        bl      map_pages
        adr_l   x1, _image_end
        mov_q   x2, {DATA}
        bl      map_pages
        // Map the page of the UART that the Image names. All its registers are in it.
        adr_l   x0, early_uart_of_image
        ldr     x0, [x0, #{UART_STATUS}]
        cbz     x0, .Lidmap_fdt
        and     x0, x0, #~({PAGE_SIZE} - 1)
        add     x1, x0, #{PAGE_SIZE}
        mov_q   x2, {DEVICE}
        bl      map_pages
.Lidmap_fdt:

        // Map the FDT if it looks valid: aligned, outside the image, right magic, at most 2 MiB.
        // Otherwise leave it unmapped; kernel_main reports it.
        cbz     x15, .Lidmap_invalidate
        tst     x15, #7
        b.ne    .Lidmap_invalidate
        // An FDT that starts inside the image is not intact: we have already written there.
        adr_l   x0, _start
        adr_l   x1, _image_end
        sub     x1, x1, x0
        sub     x3, x15, x0
        cmp     x3, x1
        b.lo    .Lidmap_invalidate
        // A loader must clean the image to PoC, but need not clean the FDT. Write back its first
        // line, and wait for that, before we read memory past the cache.
        dc      civac, x15
        dsb     sy
        ldp     w3, w4, [x15]
        rev     w3, w3
        rev     w4, w4
        mov_q   x5, {FDT_MAGIC}
        cmp     x3, x5
        b.ne    .Lidmap_invalidate
        adr_l   x5, entry_record
        str     x4, [x5, #{DTB_SIZE}]
        mov_q   x5, {FDT_MAX_SIZE}
        cmp     x4, x5
        b.hi    .Lidmap_invalidate
        // An FDT that starts below the image may still reach into it.
        sub     x3, x0, x15
        cmp     x3, x4
        b.lo    .Lidmap_invalidate
        add     x1, x15, x4
        and     x0, x15, #~({PAGE_SIZE} - 1)
        mov_q   x2, {READ}
        bl      map_pages

        // A line over the record or the tables is older than our stores: the loader left it, or
        // another observer's speculation brought it in. Invalidate both. The dsb comes first,
        // because nothing else orders a dc after a store that went past the cache.  [I5]
.Lidmap_invalidate:
        dsb     sy
        adr_l   x0, entry_record
        add     x1, x0, #{RECORD_SIZE}
        dcache_line x5, x6
        dcache_by_line ivac, x0, x1, x5, x6
        mov     x0, x12
        adr_l   x1, early_tables_end
        dcache_by_line ivac, x0, x1, x5, x6
        // The lines are invalid before the table walker or a load can find them.
        dsb     sy
        mov_q   x0, {ASID_EARLY}
        orr     x0, x12, x0, lsl #{ASID_SHIFT}
        ret     x14

// map_pages — maps a range 1:1 by 4 KiB pages.
//   in        x0 = start, 4 KiB aligned; x1 = end; x2 = leaf attributes; x12 = root table;
//             x13 = next free table
//   assumes   MMU off; tables from x13 on are zero
//   out       x0 = the end, rounded up to 4 KiB; x13 = next free table | does not return: prints
//             that it is out of tables
//   clobbers  x7, x9–x11, flags
//   memory    writes early_tables
map_pages:
.Lmap_page:
        cmp     x0, x1
        b.hs    .Lmap_done
        mov     x9, x12
        .irp    level, 3, 2, 1
        ubfx    x10, x0, #({PAGE_SHIFT} + \level * {LEVEL_BITS}), #{LEVEL_BITS}
        add     x9, x9, x10, lsl #3
        ldr     x10, [x9]
        cbnz    x10, 2f
        adr_l   x7, early_tables_end
        cmp     x13, x7
        b.hs    .Lmap_full
        orr     x10, x13, #{TABLE_OR_PAGE}
        str     x10, [x9]
        add     x13, x13, #{PAGE_SIZE}
2:      and     x9, x10, #{ADDRESS}
        .endr
        ubfx    x10, x0, #{PAGE_SHIFT}, #{LEVEL_BITS}
        orr     x11, x0, x2
        str     x11, [x9, x10, lsl #3]
        add     x0, x0, #{PAGE_SIZE}
        b       .Lmap_page
.Lmap_full:
        mov     x20, x0
        fail_because {REASON_EARLY_IDMAP}
        early_uart
        say_marker early_console, early_idmap_full, x20
        b       early_stop
.Lmap_done:
        ret

// relocate_self — applies the image's relative relocations (RELR) for the base in x0.
//   in        x0 = address of the image's first byte
//   assumes   the image is writable; no pointer that RELR names has been used yet
//   out       those pointers are right for x0, whatever base an earlier call applied
//   clobbers  x9–x15, flags
//   memory    writes relr_applied and the places that RELR names
        .global relocate_self
relocate_self:
        // RELR adds the base to each word. An earlier call may have added another base, so add only
        // the difference; the same base again changes nothing.
        adr_l   x9, relr_applied
        ldr     x10, [x9]
        str     x0, [x9]
        subs    x10, x0, x10
        b.eq    .Lrelr_done
        adr_l   x11, relr_start
        adr_l   x12, relr_end
.Lrelr_entry:
        cmp     x11, x12
        b.hs    .Lrelr_done
        ldr     x13, [x11], #8
        tbnz    x13, #{RELR_BITMAP_BIT}, .Lrelr_bitmap
        // An even entry is the address of one pointer; x14 then points to the next word.
        add     x14, x0, x13
        ldr     x9, [x14]
        add     x9, x9, x10
        str     x9, [x14], #8
        b       .Lrelr_entry
        // An odd entry is a bitmap of the 63 words from x14 on; bit 0 only marks it.
.Lrelr_bitmap:
        mov     x15, x14
.Lrelr_bit:
        lsr     x13, x13, #1
        cbz     x13, .Lrelr_bitmap_done
        tbz     x13, #0, .Lrelr_next_bit
        ldr     x9, [x15]
        add     x9, x9, x10
        str     x9, [x15]
.Lrelr_next_bit:
        add     x15, x15, #8
        b       .Lrelr_bit
.Lrelr_bitmap_done:
        add     x14, x14, #{RELR_BITMAP}
        b       .Lrelr_entry
.Lrelr_done:
        ret

        .purgem take_over
        .purgem record
        .purgem stamp

        // All are in the file's data, because clearing bss must not erase them. entry writes the
        // record before it clears bss, and a UEFI boot writes relr_applied before entry. No dirty
        // line covers them, because they are in the file [I1]. A record field that no code writes
        // is zero: EL2's registers after an entry at EL1, or the size of a missing FDT.
        //
        // The entry record and the failure record share a page.
        .section .data.entry, "aw"
        .balign {PAGE_SIZE}
        .global entry_record
entry_record:
        .skip   {RECORD_SIZE}
        .global failure_record
failure_record:
        .quad   {FAILURE_MAGIC}
        .skip   {FAILURE_SIZE} - 8
relr_applied:
        .quad   0
