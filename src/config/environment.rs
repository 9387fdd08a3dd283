//! What the machine around a good file may hold in store: looked at apart, since loading a file does no I/O.

use std::collections::BTreeSet;
use std::path::Path;

use super::problem::Warning;
use crate::routing::table::{InputKey, RoutingTable};

/// Looks for what the table needs and the machine does not have: at the moment, the folders of users' databases.
pub fn environment_warnings(table: &RoutingTable) -> Vec<Warning> {
    let mut seen = BTreeSet::new();
    let mut warnings = Vec::new();
    // Overlay's comes first: the others use its look-up when they have none.
    let (overlay, others): (Vec<_>, Vec<_>) = table.exports.iter().partition(|(kind, _)| kind.as_str() == "overlay");
    for (kind, export) in overlay.into_iter().chain(others) {
        if let InputKey::Database(lookup) = &export.input_key
            && seen.insert(&lookup.base)
            && !lookup.base.is_dir()
        {
            let message = format!(
                "the folder {} is missing: no start can be looked up there, all of them go to legacy",
                lookup.base.display()
            );
            warnings.push(Warning { key: format!("exports.{kind}.input_key.database"), message });
        }
    }
    warnings
}

/// Warns when the file itself is a mount: then a replaced file is never seen inside the container.
pub fn mount_warning(path: &Path) -> Option<Warning> {
    let resolved = path.canonicalize().ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    is_mount_point(&mounts, &resolved).then(|| Warning {
        key: String::new(),
        message: format!(
            "{} is mounted as a single file: edits that replace the file are never seen; mount its folder instead",
            path.display()
        ),
    })
}

/// Says whether `path` is a mount point; the fifth field of a line of `mountinfo` is one (proc_pid_mountinfo(5)).
fn is_mount_point(mounts: &str, path: &Path) -> bool {
    mounts.lines().filter_map(|line| line.split(' ').nth(4)).any(|point| Path::new(&unescape(point)) == path)
}

/// Undoes the octal escapes of space, tab, newline and backslash.
fn unescape(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(field.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_a_mount_is_seen() {
        let mounts = "22 1 0:21 / / rw - ext4 /dev/vda rw\n\
            31 22 0:5 /etc/gw.toml /etc/my\\040gw/gateway.toml ro,relatime shared:1 - ext4 /dev/vda rw\n";
        assert!(is_mount_point(mounts, Path::new("/etc/my gw/gateway.toml")));
        assert!(!is_mount_point(mounts, Path::new("/etc/my gw")));
        assert!(!is_mount_point("", Path::new("/")));
    }
}
