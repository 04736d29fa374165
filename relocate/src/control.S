// The relocation code: runs from "Bye!" to the next image's first instruction.
//
// Two pages that the kernel copies into the control pages: code with its arguments, then vectors.
// They contain no relocations and use nothing of the old kernel: no text, no stack, no page table,
// no vector. The copy may therefore overwrite the whole old kernel. There are two sequences:
//
// - hot: switch to the relocation idmap, copy and clean, verify, turn the MMU off, enter;
// - cold: turn the MMU off, on nVHE go to EL2, clean, copy uncached, clean, verify, enter.
//
// The routines share these registers in x19–x28:

        args    .req x19                        // the arguments, in this page
        entry   .req x21                        // first instruction of the next image, physical
        dtb     .req x22                        // its device tree, physical
        breadcrumbs .req x24                    // the breadcrumb page
        flags   .req x26                        // COLD, HVC
        line    .req x27                        // smallest D-cache line in bytes
        action  .req x28                        // what walk does with each run

        // Writes breadcrumb \number with a timestamp. It is in memory after the next dsb, with the
        // MMU on or off. [I6] The isb keeps the counter from being read early. It is also the
        // context synchronization that the code before the macro needs. Clobbers x9–x11.
        .macro  breadcrumb number
        isb
        mrs     x9, cntvct_el0
        mov     x10, #\number + {REACHED}
        add     x11, breadcrumbs, #(\number * {SLOT_SIZE})
        stp     x10, x9, [x11]
        dc      civac, x11
        .endm

        // Cleans and invalidates to PoC `bytes` bytes from \start, a whole number of pages.
        // Clobbers \start, \end, flags.
        .macro  clean_pages start, end
        add     \end, \start, bytes
        .Lclean\@:
        .rept   4
        dc      civac, \start
        add     \start, \start, line
        .endr
        cmp     \start, \end
        b.lo    .Lclean\@
        .endm

        // x8 = the UART for the printer.
        .macro  uart
        adr     x8, relocate_page_start + {ARGUMENTS} + {UART}
        .endm

        .section .text.relocate, "ax"
        .arch_extension crc
        .balign {PAGE_SIZE}
        .global relocate_page_start
relocate_page_start:

// relocate_new_kernel — copies the segments, verifies their checksums, and enters the next image.
//   in        nothing; the arguments are in this page
//   assumes   EL1, or EL2 with E2H; MMU on; this page executable, at the same address in the
//             kernel's map and in the relocation idmap; control pages clean to PoC; every source
//             page is its own destination or in no destination; on nVHE, VBAR_EL2 points to
//             private_el2_vectors  [I2–I7]
//   out       does not return; at the entry: the level at which this kernel was entered; MMU and
//             D-cache off; x0 = dtb, x1 = x2 = x3 = 0
//   clobbers  all
//   memory    reads the list and the sources, writes the destinations and breadcrumbs; uses no
//             stack
        .global relocate_new_kernel
relocate_new_kernel:
        msr     daifset, #{DAIF_ALL}
        // Point the vectors at code that the copy does not overwrite. With E2H this is VBAR_EL2.
        adr     x9, fault_vectors
        msr     vbar_el1, x9
        adr     args, relocate_page_start + {ARGUMENTS}
        ldp     entry, dtb, [args, #{ENTRY}]
        ldp     breadcrumbs, flags, [args, #{BREADCRUMBS}]
        dcache_line line, x9
        breadcrumb {CONTROL}
        tbnz    flags, #{COLD_BIT}, cold

        // Hot: switch to the relocation idmap, under its own ASID. Every leaf of both maps is nG:
        // no TLB entry of the kernel's map can match, so no TLBI is needed. Both map this page at
        // the same address. [I2, I4]
        ldr     x9, [args, #{RELOCATION_TTBR0}]
        msr     ttbr0_el1, x9
        // The new TTBR0 takes effect before walk reads the list.
        isb
        mov     action, #{COPY} | {CLEAN_DESTINATION}
        bl      walk_kimage
        breadcrumb {COPIED}
        // The cleans complete, and so every destination is in memory, before the I-caches are
        // invalidated: a fetch from there then finds the new code. The other CPUs' too: they are
        // off, but a hypervisor's CPU that is off may come back with what its I-cache held.
        dsb     sy
        ic      ialluis
        // The invalidation completes on every CPU. The breadcrumb's isb then discards whatever this
        // one has already fetched.
        dsb     ish
        breadcrumb {MAINTAINED}
        bl      verify
        breadcrumb {VERIFIED}
        bl      mmu_off
        tbz     flags, #{HVC_BIT}, leave

        // nVHE: leave by HVC_SOFT_RESTART, which enters the next image at EL2. The stub preserves
        // x3, so the next image gets the zero that soft_restart sets.
        breadcrumb {LEAVING}
        dsb     sy
        mov     x1, entry
        mov     x2, dtb
        b       soft_restart

        // Cold: turn the MMU off first. Until the caches are clean, we read only the control pages,
        // and those are clean already. Clean sources and destinations with the MMU off, when
        // speculation on this CPU cannot refill a line. The copy then reads the sources from
        // memory. A dirty line over a destination could be written back onto the copy later; a
        // clean one would hide the copy.
cold:   bl      mmu_off
        tbz     flags, #{HVC_BIT}, cold_copy
        adr     x1, cold_copy
        mov     x2, xzr

        // Enters EL2 at x1 with x0 = x2. A call to the vectors is the only way to EL2.
soft_restart:
        mov     x0, #{SOFT_RESTART}
        mov     x3, xzr
        mov     x4, xzr
        hvc     #0
returned:
        mov     x20, x0
        uart
        say_marker relocate, soft_restart_returned, x20
        b       stop

        // On nVHE this runs at EL2: SOFT_RESTART preserves x19 and up.
cold_copy:
        mov     action, #{CLEAN_SOURCE} | {CLEAN_DESTINATION}
        bl      walk_kimage
        // The lines leave the caches before the copy stores to memory past them.
        dsb     sy
        breadcrumb {MAINTAINED}
        mov     action, #{COPY}
        bl      walk_kimage
        breadcrumb {COPIED}
        // The copy is in memory before its lines are invalidated once more. Another observer (such
        // as a hypervisor) may have fetched clean lines since the first pass. They hold the old
        // data, and would hide the copy.
        dsb     sy
        mov     action, #{CLEAN_DESTINATION}
        bl      walk_kimage
        // The old lines are invalid before the I-caches are, which could be refilled from them.
        dsb     sy
        ic      ialluis
        // The invalidation completes on every CPU. The isb of the breadcrumb after verify discards
        // what was already fetched.
        dsb     ish
        bl      verify
        breadcrumb {VERIFIED}

leave:  breadcrumb   {LEAVING}
        // The last breadcrumb is in memory before the next kernel reads the page.
        dsb     sy
        mov     x0, dtb
        mov     x1, xzr
        mov     x2, xzr
        mov     x3, xzr
        br      entry

// mmu_off — turns off the MMU and caches of the current regime: EL1&0, or EL2&0 with E2H set.
//   in        nothing
//   assumes   this page is mapped 1:1  [I2]
//   out       MMU, D-cache and I-cache off
//   clobbers  x9–x11
//   memory    writes a breadcrumb
mmu_off:
        // The old kernel's last stores, for example to its stack, complete before cold_copy cleans
        // their lines. Only where a store and a dc of its line both see cacheable memory are they
        // ordered without a barrier (Arm ARM B2, "Ordering and completion of data and instruction
        // cache instructions").
        dsb     sy
        mov_q   x9, {SCTLR_MMU_OFF}
        // Falkor erratum 1041: without this isb, a speculative instruction fetch may go to a wrong
        // address while the MMU is turned off.
        isb
        // With E2H set this reaches SCTLR_EL2.
        msr     sctlr_el1, x9
        // The breadcrumb's isb makes the write take effect before the breadcrumb is stored.
        breadcrumb {MMU_OFF}
        ret

// walk_kimage — walks the kimage list, and copies each run, cleans it, or both.
//   in        action = COPY, CLEAN_SOURCE, CLEAN_DESTINATION, or several of them
//   assumes   the list is well-formed, and no part of it is in a destination  [I7]
//   out       returns at DONE; at an invalid entry, prints it and stops
//   clobbers  x0–x7, q0–q7, flags
//   memory    reads the list and sources, writes destinations
walk_kimage:
        list    .req x1                         // the next entry
        dest    .req x2
        source  .req x3
        bytes   .req x4
        ldr     x0, [args, #{HEAD}]
        b       .Lwalk_entry
.Lwalk_next:
        ldr     x0, [list], #8
.Lwalk_entry:
        and     source, x0, #{ENTRY_ADDRESS}
        tbnz    x0, #{DONE_BIT}, .Lwalk_done
        tbz     x0, #{INDIRECTION_BIT}, .Lwalk_destination
        mov     list, source
        b       .Lwalk_next
.Lwalk_destination:
        tbz     x0, #{DESTINATION_BIT}, .Lwalk_source
        mov     dest, source
        b       .Lwalk_next
.Lwalk_source:
        tbz     x0, #{SOURCE_BIT}, damaged
        ubfx    bytes, x0, #{RUN_SHIFT}, #{RUN_BITS}
        add     bytes, bytes, #1
        lsl     bytes, bytes, #{PAGE_SHIFT}

        // A source that is its own destination is cleaned but not copied.
        tbz     action, #{COPY_BIT}, .Lwalk_clean_source
        cmp     dest, source
        b.eq    .Lwalk_clean_source
        mov     x5, source
        mov     x6, dest
        add     x7, source, bytes
.Lwalk_copy:
        ldp     q0, q1, [x5], #32
        ldp     q2, q3, [x5], #32
        ldp     q4, q5, [x5], #32
        ldp     q6, q7, [x5], #32
        stp     q0, q1, [x6], #32
        stp     q2, q3, [x6], #32
        stp     q4, q5, [x6], #32
        stp     q6, q7, [x6], #32
        cmp     x5, x7
        b.lo    .Lwalk_copy

.Lwalk_clean_source:
        tbz     action, #{CLEAN_SOURCE_BIT}, .Lwalk_clean_destination
        mov     x5, source
        clean_pages x5, x6
.Lwalk_clean_destination:
        tbz     action, #{CLEAN_DESTINATION_BIT}, .Lwalk_advance
        mov     x5, dest
        clean_pages x5, x6
.Lwalk_advance:
        add     dest, dest, bytes
        b       .Lwalk_next
.Lwalk_done:
        ret

damaged:
        mov     x20, x0
        uart
        say_marker relocate, invalid_entry, x20
        b       stop

        .unreq  list
        .unreq  dest
        .unreq  source
        .unreq  bytes

// verify — checks each range in the arguments against its CRC-32C: what was copied, and the FDT.
//   in        nothing
//   assumes   as relocate_crc32c
//   out       returns if all match; otherwise prints the first mismatch and stops
//   clobbers  x0–x10, x13, x17, x20, x23, x30, flags
//   memory    reads the destinations and the arguments
verify:
        left    .req x13                        // checks still to make
        check   .req x20                        // the next check
        found   .req x23                        // CRC-32C of its destination
        mov     x17, x30
        ldr     left, [args, #{CHECKS_USED}]
        add     check, args, #{CHECKS}
1:      cbz     left, 2f
        mov     w0, #-1
        ldp     x1, x2, [check, #{CHECK_START}]
        bl      relocate_crc32c
        mvn     w0, w0
        mov     found, x0
        ldr     x1, [check, #{CHECK_CRC}]
        cmp     found, x1
        b.ne    mismatch
        add     check, check, #{CHECK_SIZE}
        sub     left, left, #1
        b       1b
2:      ret     x17

mismatch:
        uart
        ldr     x25, [check, #{CHECK_START}]
        say_marker relocate, mismatch, x25
        say     relocate, " crc32c=", found
        ldr     x25, [check, #{CHECK_CRC}]
        say     relocate, " expected=", x25
        b       stop

        .unreq  left
        .unreq  check
        .unreq  found

// relocate_crc32c — extends a CRC-32C over a range; the kernel calls its own linked copy too.
//   in        w0 = the running value; x1 = start, x2 = end, a positive multiple of 64 bytes apart
//   assumes   the CPU has FEAT_CRC32
//   out       w0 = the value after the range
//   clobbers  x1, x3–x10, flags
//   memory    reads the range; uses no stack
        .global relocate_crc32c
relocate_crc32c:
1:      ldp     x3, x4, [x1], #16
        ldp     x5, x6, [x1], #16
        ldp     x7, x8, [x1], #16
        ldp     x9, x10, [x1], #16
        crc32cx w0, w0, x3
        crc32cx w0, w0, x4
        crc32cx w0, w0, x5
        crc32cx w0, w0, x6
        crc32cx w0, w0, x7
        crc32cx w0, w0, x8
        crc32cx w0, w0, x9
        crc32cx w0, w0, x10
        cmp     x1, x2
        b.lo    1b
        ret

// relocate_fault — prints the syndrome of an exception during relocation, and stops.
//   in        x1 = vector slot
//   assumes   the UART named in the arguments is reachable
//   out       does not return
//   clobbers  all
//   memory    reads the arguments only
relocate_fault:
        mov     x19, x1
        syndrome x20, x21, x22, x23, relocate, silence
        uart
        say_marker relocate, relocation_fault, x19
        say     relocate, " esr=", x20
        say     relocate, " elr=", x21
        say     relocate, " far=", x22
stop:   say_stopped relocate
silence:
        wfi
        b       silence

        printer relocate
relocate_end:

// private_stub — answers SET_VECTORS and SOFT_RESTART while the hyp-stub may be overwritten.
//   in        x0 = number, x1–x4 = arguments
//   assumes   as hyp_stub_vectors in boot
//   out       x0 = answer, at the caller | does not return (SOFT_RESTART, or not an HVC)
//   clobbers  as hyp_stub_vectors
//   memory    accesses none
private_stub:
        stub_calls relocate_fault
        mov_q   x0, {STUB_ERR}
        eret

        .global relocate_code_end
relocate_code_end:
        // Fails to assemble if the code grows into the arguments: .org cannot move backwards.
        .org    relocate_page_start + {ARGUMENTS}, 0
        .org    relocate_page_start + {PAGE_SIZE}, 0

// fault_vectors — handles exceptions at the current EL while the relocation code runs.
//   in        an exception
//   assumes   as relocate_fault
//   out       does not return
//   clobbers  all, TPIDR_EL0, TPIDRRO_EL0
//   memory    reads the arguments only
fault_vectors:
        .irp    slot, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
        vector  \slot, relocate_fault
        .endr
        .balign 128

// private_el2_vectors — handles exceptions to EL2 on nVHE, until the next kernel sets VBAR_EL2.
//   in        an exception to EL2
//   assumes   as hyp_stub_vectors in boot
//   out       as private_stub, or relocate_fault
//   clobbers  as private_stub, or relocate_fault
//   memory    as private_stub, or relocate_fault
        .global private_el2_vectors
private_el2_vectors:
        stub_vectors private_stub, relocate_fault
        .global relocate_page_end
relocate_page_end:

        .purgem breadcrumb
        .purgem uart
        .purgem clean_pages
        .unreq  args
        .unreq  entry
        .unreq  dtb
        .unreq  breadcrumbs
        .unreq  flags
        .unreq  line
        .unreq  action
