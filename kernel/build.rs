//! Links the bare-metal kernel with boot's linker script.
//!
//! A host build, which is for the unit tests, uses no linker script.

fn main() {
    println!("cargo::rerun-if-changed=../boot/image.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let script = std::path::absolute("../boot/image.ld").expect("a current directory");
        println!("cargo::rustc-link-arg-bins=-T{}", script.display());
    }
}
