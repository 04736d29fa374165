// The relocation code: what runs in the control page, from the last act of one kernel to the first instruction of the next.
//
// Two pages that are copied together and hold no relocations: code with its arguments, then vectors. While it runs nothing of the old
// kernel is needed: no stack, no table, no vector, no text. x19–x28 hold what the routines share:

        args    .req x19                        // the arguments, in this page
        entry   .req x21                        // the next image's first instruction, physical
        dtb     .req x22                        // its device tree, physical
        crumbs  .req x24                        // the breadcrumb page
        flags   .req x26                        // COLD, HVC
        line    .req x27                        // smallest D-cache line in bytes
        action  .req x28                        // what walk does with each run

        // Leaves a breadcrumb: the phase's number and a stamp, in memory by the next dsb, MMU on or off. [I6] Its isb, which keeps the counter
        // from being read early, is also the one that what stands before it needs. Clobbers x9–x11.
        .macro  crumb number
        isb
        mrs     x9, cntvct_el0
        mov     x10, #\number + {REACHED}
        add     x11, crumbs, #(\number * {SLOT_SIZE})
        stp     x10, x9, [x11]
        dc      civac, x11
        .endm

        // Cleans and invalidates, to PoC, `bytes` bytes from \start on, which is a whole number of pages. Clobbers \start, \end, flags.
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

        .section .text.relocate, "ax"
        .arch_extension crc
        .balign {PAGE_SIZE}
        .global relocate_page_start
relocate_page_start:

// relocate_enter — moves the segments to their destinations, proves that they arrived, and enters the next image.
//   in        nothing: its arguments lie in this page
//   assumes   EL1, or EL2 with E2H; MMU on, this page executable, at the same address in the live map and in the copy's; control pages
//             clean to PoC; every source page is its own destination or nobody's; on nVHE the private EL2 vectors answer  [I2–I7]
//   out       does not return; at the entry: EL2, or EL1 where there is no EL2; MMU and D-cache off; x0 = dtb, x1 = x2 = x3 = 0
//   clobbers  all
//   memory    reads the list and the sources, writes the destinations and breadcrumbs; uses no stack
        .global relocate_enter
relocate_enter:
        msr     daifset, #0xf
        // A fault from here on is told by vectors that no copy overwrites. Under E2H this name is VBAR_EL2.
        adr     x9, fault_vectors
        msr     vbar_el1, x9
        adr     args, relocate_page_start + {ARGUMENTS}
        ldp     entry, dtb, [args, #{ENTRY}]
        ldp     crumbs, flags, [args, #{BREADCRUMBS}]
        dcache_line line, x9
        crumb   {CONTROL}
        tbnz    flags, #{COLD_BIT}, cold

        // Hot: the copy's own tables, under their own ASID; every leaf of both maps is nG, so no old translation is used and none has
        // to be invalidated. This page lies the same in both.  [I4]
        ldr     x9, [args, #{COPY_TTBR0}]
        msr     ttbr0_el1, x9
        // The next access, to the list, already goes through the new tables.
        isb
        mov     action, #{COPY} | {CLEAN_DESTINATION}
        bl      walk
        crumb   {COPIED}
        // Every destination is in memory before an instruction may be fetched from there.
        dsb     sy
        ic      iallu
        // And nothing older is left in this CPU's I-cache, nor behind the breadcrumb's isb.
        dsb     nsh
        crumb   {MAINTAINED}
        bl      verify
        crumb   {VERIFIED}
        bl      mmu_off
        tbz     flags, #{HVC_BIT}, leave

        // nVHE: as leave, but to EL2. The stub leaves x3 alone, so it is zero there already.
        crumb   {LEAVING}
        dsb     sy
        mov     x1, entry
        mov     x2, dtb
        b       soft_restart

        // Cold: the MMU goes off first. What is read from then on lies in the control pages, which are clean; sources and destinations
        // are cleaned with the MMU already off, when no speculation can bring a line back: no dirty line may fall onto the copy later,
        // and no clean one may hide it.
cold:   bl      mmu_off
        tbz     flags, #{HVC_BIT}, cold_copy
        adr     x1, cold_copy
        mov     x2, xzr

        // EL2 is entered at x1, with x0 = x2, by its own vectors and by nothing else.
soft_restart:
        mov     x0, #{SOFT_RESTART}
        mov     x3, xzr
        mov     x4, xzr
        hvc     #0
returned:
        mov     x14, x0
        bl      uart
        say     relocate, "\r\n!! HVC_SOFT_RESTART returned: x0=", x14
        b       stop

        // At EL2 on nVHE: SOFT_RESTART keeps x19 and up.
cold_copy:
        mov     action, #{CLEAN_SOURCE} | {CLEAN_DESTINATION}
        bl      walk
        // The lines are out of the cache before memory is written behind it.
        dsb     sy
        crumb   {MAINTAINED}
        mov     action, #{COPY}
        bl      walk
        crumb   {COPIED}
        // The copy is in memory before a line that hides it is dropped: what another observer's speculation brought in meanwhile is clean,
        // but older.
        dsb     sy
        mov     action, #{CLEAN_DESTINATION}
        bl      walk
        // Those lines are gone before the I-cache forgets, which may be filled from a cache that held them.
        dsb     sy
        ic      iallu
        // And that before the branch. The isb that belongs to it is the next breadcrumb's.
        dsb     nsh
        bl      verify
        crumb   {VERIFIED}

leave:  crumb   {LEAVING}
        // The last breadcrumb is in memory before another kernel looks.
        dsb     sy
        mov     x0, dtb
        mov     x1, xzr
        mov     x2, xzr
        mov     x3, xzr
        br      entry

// mmu_off — turns the live regime off: at EL1 that is EL1&0, under E2H the same name reaches EL2&0.
//   in        nothing
//   assumes   this page at the same address with and without translation  [I2]
//   out       MMU, D-cache and I-cache off
//   clobbers  x9–x11
//   memory    writes a breadcrumb
mmu_off:
        // What the old kernel stored last, on its stack for one, is complete before cold_copy cleans it: a store and a dc of one line keep their
        // order by themselves only where both take it for cacheable memory (Arm ARM B2, "Ordering and completion of data and instruction cache
        // instructions").
        dsb     sy
        mov_q   x9, {SCTLR_MMU_OFF}
        // No speculative fetch from after the write runs under the old value (Falkor erratum 1041).
        isb
        msr     sctlr_el1, x9
        // Off at the breadcrumb's isb, before its store.
        crumb   {MMU_OFF}
        ret

// walk — goes through the list and copies, cleans, or both, run by run.
//   in        action = COPY, CLEAN_SOURCE, CLEAN_DESTINATION
//   assumes   the list is well-formed, and none of it in a destination  [I7]
//   out       returns at DONE; says so and stops at an entry that is none
//   clobbers  x0–x7, q0–q7, flags
//   memory    reads the list and sources, writes destinations
walk:
        list    .req x1                         // the next entry
        dest    .req x2
        source  .req x3
        bytes   .req x4
        ldr     x0, [args, #{HEAD}]
        b       2f
1:      ldr     x0, [list], #8
2:      and     source, x0, #{ENTRY_ADDRESS}
        tbnz    x0, #{DONE_BIT}, 9f
        tbz     x0, #{INDIRECTION_BIT}, 3f
        mov     list, source
        b       1b
3:      tbz     x0, #{DESTINATION_BIT}, 4f
        mov     dest, source
        b       1b
4:      tbz     x0, #{SOURCE_BIT}, damaged
        ubfx    bytes, x0, #{RUN_SHIFT}, #{RUN_BITS}
        add     bytes, bytes, #1
        lsl     bytes, bytes, #{PAGE_SHIFT}

        // A source page that is its own destination stays where it is.
        tbz     action, #{COPY_BIT}, 6f
        cmp     dest, source
        b.eq    6f
        mov     x5, source
        mov     x6, dest
        add     x7, source, bytes
5:      ldp     q0, q1, [x5], #32
        ldp     q2, q3, [x5], #32
        ldp     q4, q5, [x5], #32
        ldp     q6, q7, [x5], #32
        stp     q0, q1, [x6], #32
        stp     q2, q3, [x6], #32
        stp     q4, q5, [x6], #32
        stp     q6, q7, [x6], #32
        cmp     x5, x7
        b.lo    5b

6:      tbz     action, #{CLEAN_SOURCE_BIT}, 7f
        mov     x5, source
        clean_pages x5, x6
7:      tbz     action, #{CLEAN_DESTINATION_BIT}, 8f
        mov     x5, dest
        clean_pages x5, x6
8:      add     dest, dest, bytes
        b       1b
9:      ret

damaged:
        mov     x14, x0
        bl      uart
        say     relocate, "\r\n!! the list holds an entry that is none: ", x14
        b       stop

        .unreq  list
        .unreq  dest
        .unreq  source
        .unreq  bytes

// verify — holds every destination against the checksum that was taken at load.
//   in        nothing
//   assumes   as relocate_crc32c
//   out       returns where all match; says which does not and stops
//   clobbers  x0–x17, flags
//   memory    reads the destinations and the arguments
verify:
        left    .req x13                        // how many checks there are still to be made
        check   .req x14                        // the next one
        found   .req x15                        // what the destination holds
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
        bl      uart
        ldr     x16, [check, #{CHECK_START}]
        say     relocate, "\r\n!! what arrived is not what was loaded: destination=", x16
        say     relocate, " crc32c=", found
        ldr     x16, [check, #{CHECK_CRC}]
        say     relocate, " expected=", x16
        b       stop

        .unreq  left
        .unreq  check
        .unreq  found

// relocate_crc32c — goes on with a CRC-32C over a range; the kernel calls it in its own text as well.
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

// relocate_fault — tells of an exception during the copy, and stops.
//   in        x1 = vector slot
//   assumes   the UART of the arguments is reachable
//   out       does not return
//   clobbers  all
//   memory    touches none but the arguments
relocate_fault:
        mov     x18, x1
        syndrome x14, x15, x16, x17, relocate, silence
        bl      uart
        say     relocate, "\r\n!! fault while relocating: slot=", x18
        say     relocate, " esr=", x14
        say     relocate, " elr=", x15
        say     relocate, " far=", x16
stop:   say_stopped relocate
silence:
        wfi
        b       silence

// uart — loads the UART's address for the printer.
//   in        nothing
//   assumes   nothing
//   out       x8 = the UART that the device tree named
//   clobbers  x8
//   memory    reads the arguments
uart:   adr     x8, relocate_page_start + {ARGUMENTS}
        ldr     x8, [x8, #{UART}]
        ret

        printer relocate

// private_stub — answers SET_VECTORS and SOFT_RESTART while the hyp-stub's own page is being overwritten.
//   in        x0 = number, x1–x4 = arguments
//   assumes   as hyp_stub_vectors in boot
//   out       x0 = answer, at the caller | does not return (SOFT_RESTART, and what is no call)
//   clobbers  x0–x18, TPIDR_EL2
//   memory    touches none
private_stub:
        stub_calls relocate_fault
        mov_q   x0, {STUB_ERR}
        eret

        .global relocate_code_end
relocate_code_end:
        // Code that ran into its arguments would make this directive go backwards, which is an error.
        .org    relocate_page_start + {ARGUMENTS}, 0
        .org    relocate_page_start + {PAGE_SIZE}, 0

// fault_vectors — the live level's vectors while the copy runs.
//   in        an exception
//   assumes   as relocate_fault
//   out       does not return
//   clobbers  all, TPIDR_EL0, TPIDRRO_EL0
//   memory    touches none but the arguments
fault_vectors:
        .irp    slot, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
        vector  \slot, relocate_fault
        .endr
        .balign 128

// private_el2_vectors — EL2's vectors from the last act of an nVHE kernel to the next one's first instructions.
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

        .purgem crumb
        .purgem clean_pages
        .unreq  args
        .unreq  entry
        .unreq  dtb
        .unreq  crumbs
        .unreq  flags
        .unreq  line
        .unreq  action
