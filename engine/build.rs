//! Compiles xdelta3's C code, the paper's codec, with the C compiler that `cc` finds.

fn main() {
    let folder = "vendor/xdelta3";
    println!("cargo::rerun-if-changed={folder}");
    println!("cargo::rerun-if-changed=build.rs");
    let pointer = std::env::var("CARGO_CFG_TARGET_POINTER_WIDTH").unwrap_or_default();
    let long = if pointer == "64" && std::env::var("CARGO_CFG_WINDOWS").is_err() { "8" } else { "4" };
    cc::Build::new()
        .file(format!("{folder}/xdelta3.c"))
        .define("SIZEOF_SIZE_T", if pointer == "64" { "8" } else { "4" })
        .define("SIZEOF_UNSIGNED_INT", "4")
        .define("SIZEOF_UNSIGNED_LONG", long)
        .define("SIZEOF_UNSIGNED_LONG_LONG", "8")
        .define("XD3_USE_LARGEFILE64", "1")
        .define("XD3_ENCODER", "1")
        .define("EXTERNAL_COMPRESSION", "0")
        .define("REGRESSION_TEST", "0")
        .define("SECONDARY_DJW", "0")
        .define("SECONDARY_FGK", "0")
        .define("SECONDARY_LZMA", "0")
        .opt_level(2)
        .warnings(false)
        .compile("xdelta3");
}
