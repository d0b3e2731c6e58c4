//! Unpacking: what tar makes, and what no tar should ever have made.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use bootagent::model::package::Format;
use bootagent::work::{Failure, FailureKind, HelperRequest, HelperResponse};

use crate::{content, failed, have, perform, Scratch};

/// Unpacks `package` into the fresh directory `dir`.
fn unpack(package: &Path, format: Format, dir: &Path) -> HelperResponse {
    let _ = fs::remove_dir_all(dir);
    fs::create_dir(dir).expect("a directory");
    let dir = dir.to_str().expect("ASCII").to_string();
    perform(&HelperRequest::Unpack { format, dir, max_bytes: 1 << 20, max_entries: 100 }, package)
}

/// One member: name, kind, mode, link, data.
type Member<'a> = (&'a str, u8, u32, &'a str, &'a [u8]);

/// An archive of these members.
fn archive(members: &[Member]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, kind, mode, link, data) in members {
        let mut block = [0_u8; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..108].copy_from_slice(format!("{mode:07o}\0").as_bytes());
        block[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
        block[148..156].fill(b' ');
        block[156] = *kind;
        block[157..157 + link.len()].copy_from_slice(link.as_bytes());
        block[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend_from_slice(&block);
        out.extend_from_slice(data);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

#[test]
fn what_tar_packs_is_unpacked() {
    let scratch = Scratch::new("unpack");
    let top = scratch.0.join("agent-1.0");
    let deep = top.join("d".repeat(90)).join("e".repeat(30));
    fs::create_dir_all(&deep).expect("directories");
    let bytes = content(100_000);
    fs::write(top.join("run"), &bytes).expect("a file");
    fs::set_permissions(top.join("run"), fs::Permissions::from_mode(0o777)).expect("a mode");
    fs::write(deep.join("f".repeat(60)), b"deep").expect("a file");
    fs::write(top.join("empty"), b"").expect("a file");
    fs::hard_link(top.join("run"), top.join("same")).expect("a link");
    std::os::unix::fs::symlink("run", top.join("link")).expect("a link");
    std::os::unix::fs::symlink("../run", deep.parent().expect("a parent").join("up")).expect("a link");
    for (format, letters) in [(Format::Tar, "c"), (Format::TarGz, "cz"), (Format::TarXz, "cJ")] {
        if format == Format::TarXz && !have("xz", Command::new("xz").arg("-V").output().is_ok()) {
            continue;
        }
        for kind in ["gnu", "pax", "ustar"] {
            let package = scratch.0.join("package");
            let tar = Command::new("tar")
                .arg(format!("--format={kind}"))
                .arg(format!("-{letters}f"))
                .args([&package, Path::new("-C"), &scratch.0, Path::new("agent-1.0")])
                .status();
            assert!(tar.expect("tar starts").success());
            let out = scratch.0.join("out");
            match unpack(&package, format, &out) {
                HelperResponse::Unpacked { bytes: 100_004, top, .. } => assert_eq!(top, b"agent-1.0"),
                other => panic!("{kind}: {other:?}"),
            }
            let got = out.join("agent-1.0");
            assert_eq!(fs::read(got.join("run")).expect("there"), bytes);
            let data = fs::metadata(got.join("run")).expect("there");
            assert_eq!(data.mode() & 0o7777, 0o755);
            assert_eq!(data.nlink(), 2);
            assert_eq!(data.mtime(), fs::metadata(top.join("run")).expect("there").mtime());
            assert_eq!(fs::read_link(got.join("link")).expect("a link"), Path::new("run"));
            let path = deep.strip_prefix(&top).expect("below").join("f".repeat(60));
            assert_eq!(fs::read(got.join(path)).expect("there"), b"deep");
        }
    }
}

#[test]
fn what_reaches_outside_or_is_not_ours_to_hold_is_refused() {
    let scratch = Scratch::new("hostile");
    let (package, out) = (scratch.0.join("package"), scratch.0.join("out"));
    let secret = scratch.file("secret", b"before");
    let file = |name: &'static str| (name, b'0', 0o644, "", &b"after"[..]);
    let long = "a/".repeat(200);
    let cases: &[(&[Member], &str)] = &[
        (&[file("/etc/x")], "\"/etc/x\" has an absolute name"),
        (&[file("../secret")], "\"../secret\" has \"..\""),
        (&[file("a/../../secret")], "\"..\""),
        (&[("d", b'2', 0o777, "..", b""), file("d/secret")], "\"d\" is a symbolic link out of"),
        (&[("d", b'2', 0o777, "/tmp", b"")], "absolute"),
        (&[("t/d", b'2', 0o777, "../../x", b"")], "out of the package"),
        (&[("t/d", b'2', 0o777, "../x", b"")], "out of the top directory \"t\""),
        (&[("d", b'2', 0o777, "e", b""), file("d/x")], "\"d/x\" goes through a symbolic link"),
        (&[("d", b'2', 0o777, "e/../..", b"")], "climbs"),
        (&[file("f"), file("f/x")], "goes through a file"),
        (&[("h", b'1', 0o644, "../secret", b"")], "\"..\""),
        (&[("h", b'1', 0o644, "/etc/passwd", b"")], "absolute"),
        (&[("h", b'1', 0o644, "none", b"")], "no file of the archive"),
        // Another name for a link, from where it leads out.
        (&[("d/l", b'2', 0o777, "../x", b""), ("h", b'1', 0o644, "d/l", b"")], "\"h\" is a symbolic link out of"),
        (&[("e/l", b'2', 0o777, "x", b""), ("d", b'2', 0o777, "e", b""), ("h", b'1', 0o644, "d/l", b"")], "no file of"),
        // The directory is reached through a link, which leads to a file of the archive.
        (
            &[("e/f", b'0', 0o644, "", b"x"), ("d", b'2', 0o777, "e", b""), ("h", b'1', 0o644, "d/f", b"")],
            "no file of the archive",
        ),
        (&[("e/f", b'0', 0o644, "", b"x"), ("h", b'1', 0o644, "e", b"")], "no file of the archive"),
        (&[("c", b'3', 0o644, "", b"")], "device"),
        (&[("b", b'4', 0o644, "", b"")], "device"),
        (&[("p", b'6', 0o644, "", b"")], "named pipe"),
        (&[("s", b'0', 0o4755, "", b"")], "set-user-id"),
        (&[("s", b'0', 0o2755, "", b"")], "set-user-id"),
        (&[("s", b'0', 0o1644, "", b"")], "sticky"),
        (&[("s", b'S', 0o644, "", b"")], "\"s\" is sparse"),
        (&[("m", b'M', 0o644, "", b"")], "\"m\" goes on from another volume"),
        (&[("w", b'W', 0o644, "", b"")], "unknown kind 'W'"),
        (&[("n\nn", b'0', 0o644, "", b"")], "control character"),
        (&[("x", b'x', 0o644, "", b"21 GNU.sparse.size=1\n"), file("a")], "\"a\" is sparse"),
        (&[("x", b'x', 0o644, "", b"18 path=../secret\n"), file("a")], "\"..\""),
        (&[("x", b'g', 0o644, "", b"10 path=a\n"), file("a")], "global"),
        (&[("L", b'L', 0o644, "", b"../secret\0"), file("a")], "\"..\""),
        (&[("L", b'L', 0o644, "", long.as_bytes()), file("a")], "more directories"),
        (&[("d/", b'5', 0o755, "", b""), file("d")], "replaces a directory"),
        (&[(".", b'0', 0o644, "", b"")], "no name"),
    ];
    for (members, part) in cases {
        fs::write(&package, archive(members)).expect("a file");
        failed(unpack(&package, Format::Tar, &out), FailureKind::Hostile, 0, part);
        assert_eq!(fs::read(&secret).expect("there"), b"before");
    }
}

#[test]
fn bounds_are_kept() {
    let scratch = Scratch::new("bounds");
    let out = scratch.0.join("out");
    let half = vec![0; 600 << 10];
    let big = scratch.file("big", &archive(&[("a", b'0', 0o644, "", &half), ("b", b'0', 0o644, "", &half)]));
    failed(unpack(&big, Format::Tar, &out), FailureKind::TooBig, 0, "more than 1M");
    assert!(Command::new("gzip").arg("-k").arg(&big).status().expect("gzip starts").success());
    let bomb = scratch.0.join("big.gz");
    assert!(fs::metadata(&bomb).expect("there").len() < 4 << 10, "it is no bomb");
    failed(unpack(&bomb, Format::TarGz, &out), FailureKind::TooBig, 0, "more than 1M");
    let members: Vec<Member> = (0..101).map(|_| ("a", b'0', 0o644, "", &b""[..])).collect();
    let many = scratch.file("many", &archive(&members));
    failed(unpack(&many, Format::Tar, &out), FailureKind::TooBig, 0, "more than 100 members");
}

#[test]
fn a_later_member_replaces_an_earlier_one() {
    let scratch = Scratch::new("replace");
    let out = scratch.0.join("out");
    let members: &[Member] =
        &[("f", b'2', 0o777, "g", b""), ("g", b'0', 0o600, "", b"old"), ("./f", b'0', 0o711, "", b"new")];
    let package = scratch.file("package", &archive(members));
    assert_eq!(unpack(&package, Format::Tar, &out), HelperResponse::Unpacked { entries: 3, bytes: 6, top: Vec::new() });
    assert_eq!(fs::read(out.join("f")).expect("there"), b"new");
    assert_eq!(fs::metadata(out.join("f")).expect("there").mode() & 0o7777, 0o711);
    assert_eq!(fs::read(out.join("g")).expect("there"), b"old");
}

/// What the file system cannot hold is said, whatever the archive calls it.
#[test]
fn a_name_too_long_for_the_host_is_said() {
    let scratch = Scratch::new("long");
    let name = "n".repeat(300);
    let package =
        scratch.file("package", &archive(&[("L", b'L', 0o644, "", name.as_bytes()), ("a", b'0', 0o644, "", b"")]));
    match unpack(&package, Format::Tar, &scratch.0.join("out")) {
        // "File name" or "Filename", as the C library has it.
        HelperResponse::Failed(Failure { reason, .. }) => assert!(reason.contains("name too long"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn archives_that_are_broken_are_said_to_be() {
    let scratch = Scratch::new("broken");
    let out = scratch.0.join("out");
    let whole = archive(&[("a", b'0', 0o644, "", &content(5000))]);
    failed(unpack(&scratch.file("empty", b""), Format::Tar, &out), FailureKind::Final, 0, "empty");
    let cut = scratch.file("cut", &whole[..3000]);
    failed(unpack(&cut, Format::Tar, &out), FailureKind::Final, 0, "the archive ends after 3000 bytes");
    let mut flipped = whole.clone();
    flipped[3] ^= 1;
    failed(unpack(&scratch.file("flipped", &flipped), Format::Tar, &out), FailureKind::Final, 0, "checksum");
    failed(unpack(&scratch.file("text", &[b'a'; 5000]), Format::Tar, &out), FailureKind::Final, 0, "no tar archive");
    failed(unpack(&cut, Format::TarGz, &out), FailureKind::Final, 0, "\"gzip\" exited with status 1: gzip: ");
    let plain = scratch.file("plain.tar", &whole);
    assert!(Command::new("gzip").arg("-k").arg(&plain).status().expect("gzip starts").success());
    let mut packed = fs::read(scratch.0.join("plain.tar.gz")).expect("there");
    match unpack(&scratch.file("good", &packed), Format::TarGz, &out) {
        HelperResponse::Unpacked { bytes: 5000, .. } => {}
        other => panic!("{other:?}"),
    }
    let end = packed.len() - 6;
    packed[end] ^= 1;
    failed(unpack(&scratch.file("crc", &packed), Format::TarGz, &out), FailureKind::Final, 0, "\"gzip\" exited");
    failed(
        unpack(&scratch.file("cut", &packed[..2000]), Format::TarGz, &out),
        FailureKind::Final,
        0,
        "\"gzip\" exited",
    );
}

/// What Macs, shared build hosts and GNU tar put in besides, and what they make of links.
#[test]
fn archives_are_unpacked_as_people_make_them() {
    let scratch = Scratch::new("people");
    let out = scratch.0.join("out");
    let double = [&[0, 5, 0x16, 7][..], &[0; 600]].concat();
    let folder = [&b"\0\0\0\x01Bud1"[..], &[0; 600]].concat();
    let members: &[Member] = &[
        ("label", b'V', 0, "", b""),
        (".DS_Store", b'0', 0o644, "", &folder),
        ("._agent", b'0', 0o644, "", &double),
        ("agent/", b'5', 0o2775, "", b""),
        ("agent/tmp", b'5', 0o1777, "", b""),
        ("agent/._run", b'0', 0o644, "", &double),
        ("agent/run", b'0', 0o755, "", b"run"),
        ("agent/._own", b'0', 0o644, "", b"own"),
        ("agent/._", b'0', 0o644, "", b""),
        ("agent/link", b'2', 0o777, "run", b""),
        ("agent/same", b'1', 0o777, "agent/link", b""),
    ];
    match unpack(&scratch.file("package", &archive(members)), Format::Tar, &out) {
        HelperResponse::Unpacked { top, .. } => assert_eq!(top, b"agent"),
        other => panic!("{other:?}"),
    }
    let mut names: Vec<_> =
        fs::read_dir(out.join("agent")).expect("there").map(|entry| entry.expect("an entry").file_name()).collect();
    names.sort();
    assert_eq!(names, ["._", "._own", "link", "run", "same", "tmp"]);
    assert_eq!(fs::read(out.join("agent/same")).expect("there"), b"run");
    for (name, mode) in [("agent", 0o755), ("agent/tmp", 0o755)] {
        assert_eq!(fs::metadata(out.join(name)).expect("there").mode() & 0o7777, mode, "{name}");
    }
}

/// Old file systems have names in Latin-1, and tar takes them as they are.
#[test]
fn a_top_directory_may_have_any_name() {
    let scratch = Scratch::new("latin1");
    let name = OsStr::from_bytes(b"M\xfcller-1");
    fs::create_dir(scratch.0.join(name)).expect("there");
    fs::write(scratch.0.join(name).join("run"), "run").expect("there");
    let package = scratch.0.join("package");
    let made = Command::new("tar").arg("-cf").arg(&package).arg("-C").arg(&scratch.0).arg(name).status();
    assert!(made.expect("tar starts").success());
    match unpack(&package, Format::Tar, &scratch.0.join("out")) {
        HelperResponse::Unpacked { top, .. } => assert_eq!(top, name.as_bytes()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_directory_of_the_package_is_no_top() {
    let scratch = Scratch::new("top");
    let out = scratch.0.join("out");
    for (name, more, want) in [
        ("bin/run", "bin/x", ""),
        ("etc/agent.conf", "etc/x", ""),
        ("lib/agent.so", "lib/x", ""),
        ("bin/run", "bin/bootagent.json", "bin"),
        ("bins/run", "bins/x", "bins"),
        ("agent/bin/run", "agent/x", "agent"),
    ] {
        let members: &[Member] = &[(name, b'0', 0o755, "", b"x"), (more, b'0', 0o644, "", b"{}")];
        match unpack(&scratch.file("package", &archive(members)), Format::Tar, &out) {
            HelperResponse::Unpacked { top, .. } => assert_eq!(top, want.as_bytes(), "{name} {more}"),
            other => panic!("{other:?}"),
        }
    }
}

/// Formats, options and tools differ in names, times, owners and in what comes twice; a package is the same with all of them.
#[test]
fn every_kind_of_tar_is_unpacked() {
    let scratch = Scratch::new("kinds");
    // The second is longer than a header has room for, the third is decomposed: a letter, and its accent behind it.
    let long = format!("{}/{}/{}", "x".repeat(90), "y".repeat(120), "z".repeat(100));
    let names = ["run", &long, "U\u{308}n\u{303}", "b", "c"];
    let make = format!(
        "mkdir -p 'top/{0}' && rmdir 'top/{0}' && for f in run '{0}' '{1}'; do echo \"$f\" >\"top/$f\"; done; \
         ln top/run top/b; ln top/b top/c; chmod 0555 top; touch -d @-100000.25 top/run; touch -d @17179869184 top/b",
        names[1], names[2]
    );
    let sh = |text: &str| {
        let ran = Command::new("sh").args(["-ec", text]).current_dir(&scratch.0).output().expect("sh starts");
        assert!(ran.status.success(), "{text}: {}", String::from_utf8_lossy(&ran.stderr));
    };
    sh(&make);
    let mut commands = vec![
        "tar --format=gnu -cf o.tar top",
        "tar --format=oldgnu -b1 -cf o.tar top",
        "tar --format=posix --pax-option=comment=x,globexthdr.name=/tmp/g -cf o.tar top",
        "tar --format=posix --owner=4000000000 --group=3999999999 --xattrs -cf o.tar top",
        "tar --format=gnu --owner=4000000000 --group=3999999999 -cf o.tar top",
        "tar -C top -cf o.tar .",
        "tar -cf o.tar --transform 's,^top,.//top/,' top",
        // Without members for the directories.
        "find top -type f | tar --no-recursion -cf o.tar -T -",
        "tar -cf o.tar top; tar -rf o.tar top/run top/c",
        "tar -cf o.tar --exclude=run top; tar -cf p.tar top/run; tar -Af o.tar p.tar",
    ];
    if have("busybox", Command::new("busybox").output().is_ok()) {
        commands.push("busybox tar cf o.tar top");
    }
    for command in commands {
        sh(command);
        let out = scratch.0.join("out");
        let outcome = unpack(&scratch.0.join("o.tar"), Format::Tar, &out);
        let HelperResponse::Unpacked { top, .. } = outcome else { panic!("{command}: {outcome:?}") };
        for (name, want) in names.iter().zip([names[0], names[1], names[2], "run", "run"]) {
            let text = fs::read_to_string(out.join(OsStr::from_bytes(&top)).join(name)).unwrap_or_default();
            assert_eq!(text.trim_end(), want, "{command}: {name}");
        }
    }
    sh("chmod -R u+w top");
}
