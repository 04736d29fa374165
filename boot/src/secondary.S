// Entry path of a secondary CPU: from PSCI's CPU_ON to its first line of Rust.

        .section .text.boot, "ax"

// secondary_entry — brings a CPU from the state that PSCI's CPU_ON leaves to Rust.
//   in        x0 = this CPU's boot::percpu::PerCpu, physical, clean to PoC
//   assumes   EL2 or EL1, MMU and D-cache off, DAIF masked; this image clean to PoC; the map in
//             PerCpu
//             holds it 1:1, text executable  [I1, I2, I4]
//   out       does not return; kernel_secondary(PerCpu) at EL1h, MMU and caches on, SError
//             unmasked, in that map
//   clobbers  all
//   memory    MMU off: reads PerCpu, on an exception writes its frame; MMU on: writes its entered
        .global secondary_entry
secondary_entry:
        msr     SPSel, #1
        mov     sp, x0
        mov     x20, x0

        // Keep the entry state in registers until the MMU is on: until then a store would go past
        // the cache.  [I5]
        mrs     x21, CurrentEL
        mrs     x22, daif
        mov     x24, xzr
        cmp     x21, #{CURRENT_EL2}
        b.ne    1f
        mrs     x23, sctlr_el2
        mrs     x24, cntvoff_el2
        bl      el2_setup
        b       2f
1:      mrs     x23, sctlr_el1
2:      bl      cpu_setup
        ldr     x0, [x20, #{TTBR0}]
        bl      mmu_on
        stp     x21, x22, [x20, #{ENTERED_CURRENT_EL}]
        stp     x23, x24, [x20, #{ENTERED_SCTLR}]

        ldr     x9, [x20, #{STACK}]
        mov     sp, x9
        msr     tpidr_el1, x20
        adr_l   x9, exception_vectors
        msr     vbar_el1, x9
        isb
        // As on the first CPU: unmask SError so that this kernel reports an asynchronous abort when
        // it happens. IRQ and FIQ stay masked until there is a handler.
        msr     daifclr, #{DAIF_A}
        mov     x0, x20
        mov     x29, xzr
        bl      {KERNEL_SECONDARY}
        b       early_stop
