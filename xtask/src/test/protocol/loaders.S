// Loaders that break one rule each. mod.rs lays each out as an Image of its own, with the kernel some way behind it.
//
// x28 = the loader's own Image; in its header, at KERNEL_AT, how far behind lies the kernel; at TABLE a root table
// that maps the first two GiB 1:1, at VECTORS the section .loader.vectors.

        .macro enter
        ldr     x27, [x28, #KERNEL_AT]
        add     x27, x28, x27
        br      x27
        .endm

        // Copies x11 bytes from x0 to x9, which is where x0 points then.
        .macro copy_tree
        mov     x10, x0
        mov     x0, x9
1:      ldr     w12, [x10], #4
        str     w12, [x9], #4
        subs    x11, x11, #4
        b.ne    1b
        .endm

        // Goes on at EL1, with HCR_EL2 = x19, CNTHCTL_EL2 = x20, CPTR_EL2 = x21, and bits x22 set in MDCR_EL2; what they trap is given back as UNDEFINED.
        .macro enter_at_el1
        msr     hcr_el2, x19
        msr     cnthctl_el2, x20
        msr     cptr_el2, x21
        mrs     x9, mdcr_el2
        orr     x9, x9, x22
        msr     mdcr_el2, x9
        msr     cntvoff_el2, xzr
        mrs     x9, midr_el1
        msr     vpidr_el2, x9
        mrs     x9, mpidr_el1
        msr     vmpidr_el2, x9
        mrs     x9, s3_4_c12_c9_5               // ICC_SRE_EL2
        mov     x10, #ICC_SRE_ENABLE
        orr     x9, x9, x10
        msr     s3_4_c12_c9_5, x9
        add     x9, x28, #VECTORS
        msr     vbar_el2, x9
        ldr     x9, =SCTLR_EL1_MMU_OFF
        msr     sctlr_el1, x9
        mov     x9, #SPSR_TO_EL1
        msr     spsr_el2, x9
        ldr     x27, [x28, #KERNEL_AT]
        add     x27, x28, x27
        msr     elr_el2, x27
        eret
        .ltorg
        .endm

        // What a loader that means well opens for EL1.
        .macro open_for_el1
        ldr     x19, =HCR_OPEN
        mov     x20, #3
        mov     x21, #0x22ff
        mov     x22, xzr
        .endm

        .section .loader.good, "ax"
        enter

        .section .loader.good-el1, "ax"
        open_for_el1
        enter_at_el1

        .section .loader.x1, "ax"
        mov     x1, #1
        enter

        .section .loader.x2, "ax"
        mov     x2, #1
        enter

        .section .loader.x3, "ax"
        mov     x3, #1
        enter

        .section .loader.serror, "ax"
        msr     daifclr, #4
        enter

        .section .loader.mmu, "ax"
        add     x9, x28, #TABLE
        msr     ttbr0_el1, x9
        mov     x9, #MAIR
        msr     mair_el1, x9
        ldr     x9, =TCR_39_BITS
        msr     tcr_el1, x9
        isb
        tlbi    vmalle1
        dsb     sy
        mrs     x9, sctlr_el1
        orr     x9, x9, #SCTLR_M
        msr     sctlr_el1, x9
        isb
        enter
        .ltorg

        .section .loader.dcache, "ax"
        mrs     x9, sctlr_el1
        orr     x9, x9, #SCTLR_C
        msr     sctlr_el1, x9
        isb
        enter

        .section .loader.no-dtb, "ax"
        add     x0, x28, #NOTHING
        enter

        .section .loader.dtb-unaligned, "ax"
        add     x9, x28, #NOTHING
        add     x9, x9, #4
        mov     x11, #0x10000
        copy_tree
        enter

        .section .loader.dtb-size, "ax"
        // Big-endian: 2 MiB and eight bytes.
        movz    w9, #0x2000
        movk    w9, #0x0800, lsl #16
        str     w9, [x0, #4]
        enter

        .section .loader.device, "ax"
        // The Status of the device in the last slot: ACKNOWLEDGE, DRIVER, DRIVER_OK.
        ldr     x9, =LAST_SLOT_STATUS
        mov     w10, #7
        str     w10, [x9]
        enter
        .ltorg

        .section .loader.bus-master, "ax"
        ldr     x9, =FIRST_FUNCTION_COMMAND
        ldrh    w10, [x9]
        orr     w10, w10, #4
        strh    w10, [x9]
        enter
        .ltorg

        .section .loader.cntfrq, "ax"
        mrs     x9, cntfrq_el0
        add     x9, x9, #1
        msr     cntfrq_el0, x9
        enter

        .section .loader.cntvoff, "ax"
        mov     x9, #0x10000
        msr     cntvoff_el2, x9
        enter

        .section .loader.trap-counter, "ax"
        open_for_el1
        mov     x20, #2
        enter_at_el1

        .section .loader.trap-keys, "ax"
        open_for_el1
        bic     x19, x19, #HCR_APK
        enter_at_el1

        .section .loader.trap-codes, "ax"
        open_for_el1
        bic     x19, x19, #HCR_API
        enter_at_el1

        .section .loader.trap-tags, "ax"
        open_for_el1
        bic     x19, x19, #HCR_ATA
        enter_at_el1

        .section .loader.trap-sve, "ax"
        open_for_el1
        orr     x21, x21, #CPTR_TZ
        enter_at_el1

        .section .loader.trap-sme, "ax"
        open_for_el1
        orr     x21, x21, #CPTR_TSM
        enter_at_el1

        .section .loader.trap-pmu, "ax"
        open_for_el1
        mov     x22, #MDCR_TPM
        enter_at_el1

        .section .loader.trap-debug, "ax"
        open_for_el1
        mov     x22, #MDCR_TDA
        enter_at_el1

        // EL2's vectors: what EL1 was not given is UNDEFINED there. The one slot in use is that of a lower level's synchronous exceptions.
        .section .loader.vectors, "ax"
        .skip   0x400
        msr     tpidr_el2, x9
        mrs     x9, elr_el2
        msr     elr_el1, x9
        mrs     x9, spsr_el2
        msr     spsr_el1, x9
        // EC = 0, IL.
        mov     x9, #1 << 25
        msr     esr_el1, x9
        mrs     x9, vbar_el1
        add     x9, x9, #0x200
        msr     elr_el2, x9
        mov     x9, #SPSR_TO_EL1
        msr     spsr_el2, x9
        mrs     x9, tpidr_el2
        eret
