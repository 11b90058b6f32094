//! Reading files.

use std::path::PathBuf;

use super::super::load;

fn directory(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Vec<PathBuf>) {
    let directory = tempfile::tempdir().unwrap();
    let write = |(name, bytes): &(&str, &[u8])| {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let paths = files.iter().map(write).collect();
    (directory, paths)
}

#[test]
fn several_files_are_one_configuration() {
    let (_directory, paths) = directory(&[
        ("a.toml", b"[node]\nname = \"a\"\n"),
        (
            "b.toml",
            b"[[pod]]\nname = \"x\"\nip = \"10.0.0.1\"\ninterface = \"veth1\"\n",
        ),
        (
            "c.toml",
            b"[[pod]]\nname = \"y\"\nip = \"10.0.0.2\"\ninterface = \"veth2\"\n",
        ),
    ]);
    let config = load(&paths, None).unwrap();
    let names: Vec<&str> = config.pods.iter().map(|pod| pod.name.as_str()).collect();
    assert_eq!(names, ["x", "y"]);
    assert_eq!(config.pods[1].at.key, "pod[0]");
    assert_eq!(&*config.pods[1].interface_at.file, paths[2].as_path());
    assert_eq!(config.pods[1].interface_at.line, 4);
}

#[test]
fn a_file_that_cannot_be_read_hides_no_errors_of_others() {
    let (directory, mut paths) = directory(&[
        ("b.toml", b"[workers]\nframes = 1\n"),
        ("c.toml", b"# fine\n# \xff\n"),
    ]);
    paths.insert(0, directory.path().join("a.toml"));
    let errors = load(&paths, None).unwrap_err().to_string();
    let errors = errors.replace(&format!("{}/", directory.path().display()), "");
    assert_eq!(
        errors,
        "a.toml:1: file: cannot be read: No such file or directory (os error 2)\n\
         b.toml:2: workers.frames: 1 is not in 64..=16384\n\
         c.toml:2: file: not UTF-8 text"
    );
}

/// XDS-04: a reload that names a device by mistake is refused, and takes no more memory than a file may.
#[test]
fn xds_04_a_file_without_end_is_refused() {
    let errors = load(&[PathBuf::from("/dev/zero")], None).unwrap_err();
    let expected = "/dev/zero:1: file: cannot be read: longer than 256 MiB";
    assert_eq!(errors.to_string(), expected);
}
