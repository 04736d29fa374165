//! Tests of the console table: each kind by the strings of real boards.

use super::*;
use crate::machine::tests::{cells, node, text, virt};
use crate::machine::{Machine, Tree};
use alloc::vec::Vec;
use boot::phys::PAGE_SIZE;

const AT: u64 = 0x1100_2000;

/// Reads a machine whose console has these strings and numbers.
fn console(compatible: &str, numbers: &[(&str, Vec<u8>)]) -> Result<Console, Error> {
    let mut tree = virt();
    let reg = cells(&[0, AT as u32, 0, PAGE_SIZE as u32]);
    let mut uart = node("serial@0", &[("compatible", text(compatible)), ("reg", reg)]);
    for (name, value) in numbers {
        uart.add_property(dtoolkit::model::DeviceTreeProperty::new_unchecked(*name, value.clone()));
    }
    tree.root.add_child(uart);
    let path = dtoolkit::model::DeviceTreeProperty::new("stdout-path", "/serial@0").unwrap();
    tree.find_node_mut("/chosen").unwrap().add_property(path);
    let machine = Machine::read(&Tree::open(&tree.to_dtb()).unwrap()).unwrap();
    machine.console.ok_or_else(|| machine.console_error.unwrap())
}

#[test]
fn every_kind_is_known_by_the_strings_of_boards() {
    for (compatible, kind, reg_shift, io_width, offset) in [
        ("arm,pl011\0arm,primecell", Kind::Pl011, 0, 4, 0),
        ("arm,sbsa-uart", Kind::Sbsa, 0, 4, 0),
        ("ns16550a", Kind::Ns8250, 0, 1, 0),
        ("fsl,ns16550\0ns16550a", Kind::Ns8250, 0, 1, 0),
        ("snps,dw-apb-uart", Kind::Ns8250, 0, 1, 0),
        ("rockchip,rk3399-uart\0snps,dw-apb-uart", Kind::Ns8250, 0, 1, 0),
        ("mediatek,mt8183-uart\0mediatek,mt6577-uart", Kind::Ns8250, 2, 4, 0),
        ("nvidia,tegra210-uart\0nvidia,tegra20-uart", Kind::Ns8250, 2, 4, 0),
        ("ti,am64-uart\0ti,am654-uart", Kind::Ns8250, 2, 4, 0),
        ("brcm,bcm2835-aux-uart", Kind::Ns8250, 2, 4, 0),
        ("fsl,imx8mm-uart\0fsl,imx6q-uart", Kind::Imx, 0, 4, 0),
        ("fsl,vf610-lpuart", Kind::Lpuart8, 0, 1, 0),
        ("fsl,ls1028a-lpuart", Kind::Lpuart32, 0, 4, 0),
        ("fsl,imx93-lpuart\0fsl,imx8ulp-lpuart\0fsl,imx7ulp-lpuart", Kind::Lpuart32, 0, 4, 0x10),
        ("amlogic,meson-gx-uart\0amlogic,meson-ao-uart", Kind::Meson, 0, 4, 0),
        ("qcom,geni-debug-uart", Kind::Geni, 0, 4, 0),
        ("qcom,geni-uart", Kind::Geni, 0, 4, 0),
        ("qcom,msm-uartdm-v1.4\0qcom,msm-uartdm", Kind::UartDm, 0, 4, 0),
        ("xlnx,zynqmp-uart\0cdns,uart-r1p12", Kind::Cadence, 0, 4, 0),
        ("xlnx,xuartps", Kind::Cadence, 0, 4, 0),
        ("renesas,scif-r8a774a1\0renesas,rcar-gen3-scif\0renesas,scif", Kind::Scif, 0, 2, 0),
        ("renesas,hscif-r8a779g0\0renesas,rcar-gen4-hscif\0renesas,hscif", Kind::Hscif, 0, 2, 0),
        ("renesas,scif-r9a07g044", Kind::ScifRz, 0, 2, 0),
        ("samsung,exynos850-uart", Kind::S3c, 0, 1, 0),
        ("apple,s5l-uart", Kind::S3c, 0, 4, 0),
        ("marvell,armada-3700-uart", Kind::Mvebu, 0, 4, 0),
    ] {
        let registers = PhysAddr::new(AT)..PhysAddr::new(AT + PAGE_SIZE);
        let base = PhysAddr::new(AT + offset);
        let expected = Console { kind, registers, base, reg_shift, io_width, is_big_endian: false };
        assert_eq!(console(compatible, &[]), Ok(expected), "{compatible:?}");
    }
    // Each row of the table is the first that matches something.
    for row in TABLE {
        let example = row.compatible.replace('*', "7");
        let first = TABLE.iter().find(|row| row.is(example.as_bytes())).unwrap();
        assert_eq!(first.compatible, row.compatible, "another row takes {example}");
    }
}

#[test]
fn a_node_gives_its_own_numbers() {
    let given = [
        ("reg-shift", cells(&[2])),
        ("reg-io-width", cells(&[4])),
        ("reg-offset", cells(&[0x20])),
        ("big-endian", Vec::new()),
    ];
    let Console { reg_shift, io_width, base, is_big_endian, .. } =
        console("ns16550a", &given).unwrap();
    assert_eq!((reg_shift, io_width, base.get(), is_big_endian), (2, 4, AT + 0x20, true));
    assert!(console("fsl,ls1021a-lpuart", &[]).unwrap().is_big_endian);
}

#[test]
fn a_console_that_cannot_be_used_says_why() {
    let path = || "/serial@0".into();
    assert_eq!(console("acme,uart\0x", &[]), Err(Error::Unknown(path(), "acme,uart".into())));
    let with = |name, value: Vec<u8>| console("ns16550a", &[(name, value)]);
    assert_eq!(with("status", text("disabled")), Err(Error::Disabled(path())));
    assert_eq!(with("reg", Vec::new()), Err(Error::NoAddress(path())));
    assert_eq!(with("reg", cells(&[1])), Err(Error::NoAddress(path())));
    for (name, value) in [("reg-shift", 5), ("reg-io-width", 3), ("reg-offset", 0x1000)] {
        assert_eq!(with(name, cells(&[value])), Err(Error::Layout(path())), "{name}");
    }
    // Strings that only begin or end like one of the table.
    for compatible in ["arm,pl011x", "xarm,pl011", "fsl,imx-uar", "qcom,msm-uart", "", "-uart"] {
        assert!(matches!(console(compatible, &[]), Err(Error::Unknown(..))), "{compatible}");
    }
}

#[test]
fn a_transmitter_is_made_of_the_numbers_unless_they_are_big_endian() {
    let [shift, width] = [2, 4].map(|number: u32| number.to_be_bytes().to_vec());
    let mut numbers = vec![("reg-shift", shift), ("reg-io-width", width)];
    let console_of = |numbers: &[_]| console("ns16550a", numbers).unwrap();
    let uart = Uart::new(Kind::Ns8250, PhysAddr::new(AT), 2, 4);
    assert_eq!(console_of(&numbers).uart(), Some(uart));
    numbers.push(("big-endian", Vec::new()));
    assert_eq!(console_of(&numbers).uart(), None);
}
