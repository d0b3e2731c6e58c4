//! Makers of small packages with the system's own tools: tar, dpkg-deb, rpmbuild.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use sha2::{Digest, Sha256};

use super::*;

/// A package file.
pub struct Package {
    /// Its file name, with the ending that tells the format.
    pub file: String,
    pub version: String,
    /// As a job wants it.
    pub checksum: String,
    pub bytes: Vec<u8>,
}

impl Package {
    /// The file at `path`.
    pub fn at(path: &Path, version: &str) -> Package {
        let bytes = fs::read(path).expect("the packer wrote it");
        let file = path.file_name().expect("a file").to_string_lossy().into_owned();
        Package { file, version: version.to_string(), checksum: checksum(&bytes), bytes }
    }
}

/// `SHA256:` and the digest of `bytes`.
pub fn checksum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold("SHA256:".to_string(), |text, byte| text + &format!("{byte:02x}"))
}

/// A script that says `word` and stays; `$0` is the script, arguments go to it.
pub fn staying(word: &str) -> String {
    format!("#!/bin/sh\necho \"{word}\"\nexec sleep 1000\n")
}

/// A name that no other test and no real package has.
pub fn unique_name(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("{prefix}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
    note_made(&name);
    name
}

/// A tarball with `bin/agent` (the script) and a definition of agent `name` that runs it, in one top directory.
pub fn tarball(host: &Host, name: &str, version: &str, script: &str, keys: &[(&str, &str)]) -> Package {
    let mut all = vec![("exec", "[\"bin/agent\"]")];
    all.extend_from_slice(keys);
    let definition = definition(name, version, "", &all);
    tar_of(host, name, version, &[("bin/agent", script), ("bootagent.json", &definition)])
}

/// A tar of agent `name` with so much noise in it, KiB.
pub fn heavy(host: &Host, name: &str, version: &str, kib: usize) -> Package {
    let top = format!("{name}-{version}");
    let work = host.path("build").join(unique_name("tar"));
    let definition = definition(name, version, "", &[("exec", "[\"bin/agent\"]")]);
    write_tree(&work.join(&top), &[("bin/agent", &staying("up")), ("bootagent.json", &definition)]);
    let path = work.join(format!("{top}.tar"));
    let script = format!("cd \"$0\" && head -c {kib}k /dev/urandom >{top}/noise && tar -cf {top}.tar {top}");
    pack(Command::new("/bin/sh").args(["-c", &script]).arg(&work));
    Package::at(&path, version)
}

/// A tarball with these files, all executable, in one top directory.
pub fn tar_of(host: &Host, name: &str, version: &str, files: &[(&str, &str)]) -> Package {
    let top = format!("{name}-{version}");
    let work = host.path("build").join(unique_name("tar"));
    write_tree(&work.join(&top), files);
    let path = work.join(format!("{top}.tar.gz"));
    let mut tar = Command::new("tar");
    pack(tar.arg("-C").arg(&work).arg("-czf").arg(&path).arg(&top));
    Package::at(&path, version)
}

/// A .deb named `package` with these files; `scripts` are maintainer scripts (`postinst` and so on).
pub fn deb(host: &Host, package: &str, version: &str, files: &[(&str, &str)], scripts: &[(&str, &str)]) -> Package {
    deb_with(host, package, version, files, scripts, "")
}

/// The same with these fields of its control file, a line each.
pub fn deb_with(
    host: &Host,
    package: &str,
    version: &str,
    files: &[(&str, &str)],
    scripts: &[(&str, &str)],
    fields: &str,
) -> Package {
    let work = host.path("build").join(unique_name("deb"));
    write_tree(&work.join("root"), files);
    write_tree(&work.join("root/DEBIAN"), scripts);
    let control = format!(
        "Package: {package}\nVersion: {version}\nArchitecture: all\nMaintainer: Test <test@localhost>\n\
         Description: a package of a test, removed by it\n{fields}"
    );
    fs::write(work.join("root/DEBIAN/control"), control).expect("the host's directory can be written");
    let path = work.join(format!("{package}_{version}_all.deb"));
    pack(Command::new("dpkg-deb").args(["--root-owner-group", "--build"]).arg(work.join("root")).arg(&path));
    Package::at(&path, version)
}

/// An .rpm named `package` with these files.
pub fn rpm(host: &Host, package: &str, version: &str, files: &[(&str, &str)]) -> Package {
    rpm_with(host, package, version, files, "")
}

/// The same with these sections of scripts (`%post` and so on).
pub fn rpm_with(host: &Host, package: &str, version: &str, files: &[(&str, &str)], scripts: &str) -> Package {
    let work = host.path("build").join(unique_name("rpm"));
    write_tree(&work.join("root"), files);
    // What is called so is configuration.
    let kind = |path: &str| if path.ends_with(".config") { "%config(noreplace) " } else { "" };
    let list: String =
        files.iter().map(|(path, _)| format!("%attr(0755,root,root) {}\"/{path}\"\n", kind(path))).collect();
    let root = work.join("root");
    let spec = format!(
        "Name: {package}\nVersion: {version}\nRelease: 1\nSummary: a package of a test\nLicense: MIT\nBuildArch: noarch\n\
         AutoReqProv: no\n%description\nRemoved by the test that installs it.\n\
         %install\nmkdir -p %{{buildroot}}\ncp -a {root}/. %{{buildroot}}/\n{scripts}\n%files\n{list}",
        root = root.display()
    );
    let spec_file = work.join("package.spec");
    fs::write(&spec_file, spec).expect("the host's directory can be written");
    let topdir = format!("_topdir {}", work.join("top").display());
    pack(Command::new("rpmbuild").args(["-bb", "--define", &topdir]).arg(&spec_file));
    Package::at(&find_rpm(&work.join("top/RPMS")), version)
}

fn find_rpm(directory: &Path) -> PathBuf {
    let mut found = super::entries(directory);
    while let Some(path) = found.pop() {
        if path.is_dir() {
            found.extend(super::entries(&path));
        } else if path.extension().is_some_and(|ending| ending == "rpm") {
            return path;
        }
    }
    panic!("rpmbuild wrote no .rpm")
}

fn write_tree(root: &Path, files: &[(&str, &str)]) {
    fs::create_dir_all(root).expect("the host's directory can be written");
    for (file, text) in files {
        let path = root.join(file);
        fs::create_dir_all(path.parent().expect("below the root")).expect("the host's directory can be written");
        write_program(&path, text);
    }
}

fn pack(command: &mut Command) {
    let ran = run(command).expect("packing ends");
    assert_eq!(ran.code, 0, "{command:?}: {}{}", ran.out, ran.err);
}

/// What somebody does by hand with a package manager, as soon as nobody holds its lock.
pub fn by_hand(words: &[&str]) {
    let done = patiently(|| {
        let ran = run(Command::new(words[0]).args(&words[1..])).expect("it ends");
        let locked = bootagent::model::package::is_locked(&ran.err);
        assert!(ran.code == 0 || locked, "{words:?}: {}{}", ran.out, ran.err);
        (ran.code == 0).then_some(())
    });
    assert!(done.is_some(), "{words:?}: the database stays locked");
}

/// Removes a package of the host's own package manager when the test ends, however it does; made before the host, so
/// that no installer is left.
pub struct Purge(pub &'static [&'static str], pub String);

impl Drop for Purge {
    fn drop(&mut self) {
        super::remove_package(&[self.0, &[&self.1]].concat());
    }
}

/// The files of a package that brings agent `name`: its program and its definition.
pub fn host_files(name: &str, version: &str, script: &str) -> [(String, String); 2] {
    let exec = format!("[\"/usr/bin/{name}\"]");
    let definition = definition(name, version, "", &[("exec", &exec)]);
    [(format!("usr/bin/{name}"), script.to_string()), (format!("usr/lib/bootagent/{name}.json"), definition)]
}

/// The same without ownership, as `deb` wants it.
pub fn borrowed(files: &[(String, String)]) -> Vec<(&str, &str)> {
    files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect()
}

/// A job that installs `package`, served over http.
pub fn install(server: &Server, id: &str, name: &str, package: &Package) -> Job {
    let url = server.serve(&package.file, &package.bytes);
    Job::new(id, "install", name).package(&url, package).set("startsecs", "0.5")
}

/// The downloads requested of the server.
pub fn downloads(server: &Server) -> Vec<Request> {
    server.requests().into_iter().filter(|request| request.path.starts_with("/packages/")).collect()
}

/// What is left of an agent's packages and records, the ledger and the log apart.
pub fn traces(host: &Host, name: &str) -> Vec<PathBuf> {
    let mut found = entries(&host.path("state/downloads"));
    for place in ["state/packages", "state/agents", "run/agents"] {
        let of_agent = |path: &PathBuf| path.file_name().is_some_and(|file| file.to_string_lossy().contains(name));
        found.extend(entries(&host.path(place)).into_iter().filter(of_agent));
    }
    found
}
