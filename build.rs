//! Sets what the binary says about itself: version, git revision, architecture and the compiled-in server list.

use std::process::Command;

fn main() {
    let revision = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output()
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map_or_else(|| "unknown".to_string(), |text| text.trim().to_string());
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let target = std::env::var("TARGET").unwrap_or_default();
    let arch = if target.starts_with("armv7") { "armv7" } else { arch.as_str() };
    println!("cargo::rustc-env=BOOTAGENT_REVISION={revision}");
    println!("cargo::rustc-env=BOOTAGENT_ARCH={arch}");
    println!("cargo::rustc-env=BOOTAGENT_SVRLIST={}", std::env::var("BOOTAGENT_SVRLIST").unwrap_or_default());
    println!("cargo::rerun-if-env-changed=BOOTAGENT_SVRLIST");
    println!("cargo::rerun-if-changed=.git/HEAD");
    println!("cargo::rerun-if-changed=.git/refs");
    println!("cargo::rerun-if-changed=build.rs");
}
