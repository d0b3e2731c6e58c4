mod util;
use util::*;
#[test]
fn x() {
    let s = Server::new();
    let h = Host::with(&s);
    let p = tarball(&h, "a", "1.0", &staying("x"), &[]);
    println!("{} {}", p.file, p.checksum);
    let p = deb(&h, "aa", "1.0", &[("usr/bin/aa", "x")], &[("postinst", "#!/bin/sh\n")]);
    println!("{}", p.file);
    let p = rpm(&h, "aa", "1.0", &[("usr/bin/aa", "x")]);
    println!("{}", p.file);
}
