//! Processes and folders that end with this process, however it ends.
//!
//! A value that ends its process on drop is not enough: statics are never dropped, and nothing is dropped when a test
//! run is killed. So one small shell waits at the other end of a pipe for as long as this process lives; when the pipe
//! closes, it kills and removes what is left. It needs no `unsafe` and works wherever there is a `/bin/sh`.

use std::{
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{LazyLock, Mutex, PoisonError},
};

/// Reads `+ PID`, `- PID` and `/ FOLDER`. Signals that end a whole foreground group must not end the leash first.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
pids=" "
while read -r what of; do
    case $what in
    +) pids="$pids$of " ;;
    -) case $pids in *" $of "*) pids="${pids%%" $of "*} ${pids#*" $of "}" ;; esac ;;
    /) set -- "$@" "$of" ;;
    esac
done
for pid in $pids; do kill -KILL "$pid" 2>/dev/null; done
[ "$pids" = " " ] || sleep 0.2
for folder in "$@"; do rm -rf -- "$folder"; done
"#;

static LEASH: LazyLock<Mutex<Option<Child>>> = LazyLock::new(|| {
    let shell = Command::new("/bin/sh")
        .args(["-c", SCRIPT, "leash"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        // Whoever kills the group of a test run does not kill this one with it.
        .process_group(0)
        .spawn();
    Mutex::new(shell.ok())
});

/// The process with this number is killed when this one ends, however that happens. For one that has no value to end it.
pub fn hold(pid: u32) {
    tell(&format!("+ {pid}\n"));
}

/// The process has been killed and is about to be awaited: its number may soon be somebody else's.
pub(crate) fn release(pid: u32) {
    tell(&format!("- {pid}\n"));
}

/// This folder is removed when we end.
pub(crate) fn remove_at_end(folder: &Path) {
    tell(&format!("/ {}\n", folder.display()));
}

fn tell(line: &str) {
    let mut shell = LEASH.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(input) = shell.as_mut().and_then(|shell| shell.stdin.as_mut()) {
        // Without the shell there is still the drop.
        let _ = input.write_all(line.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    /// Runs in a process of its own: see the tests below.
    const PART: &str = "leash::tests::part_that_leaves_a_process_behind";

    #[test]
    #[ignore = "a part of the tests below"]
    fn part_that_leaves_a_process_behind() {
        let folder = std::path::PathBuf::from(std::env::var("FOLDER").unwrap());
        std::fs::create_dir(&folder).unwrap();
        remove_at_end(&folder);
        let (gone, mut left) = (sleeper(), sleeper());
        hold(gone.id());
        hold(left.id());
        release(gone.id());
        std::fs::write(folder.with_extension("pids"), format!("{} {}", gone.id(), left.id())).unwrap();
        if std::env::var_os("WAIT").is_some() {
            left.wait().unwrap();
        }
    }

    fn sleeper() -> Child {
        Command::new("sleep").arg("600").stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
    }

    fn until<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(value) = check() {
                return value;
            }
            assert!(Instant::now() < end, "{what} did not happen");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Starts the part, ends it as told and checks what it leaves.
    fn nothing_is_left(killed: bool) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("with a blank");
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([PART, "--exact", "--ignored"]).env("FOLDER", &folder).stdout(Stdio::null());
        if killed {
            command.env("WAIT", "yes");
        }
        let mut part = command.spawn().unwrap();
        let pids = until("the part starts its processes", || {
            let pids = std::fs::read_to_string(folder.with_extension("pids")).ok()?;
            let (gone, left) = pids.split_once(' ')?;
            Some((gone.parse::<u32>().ok()?, left.parse::<u32>().ok()?))
        });
        if killed {
            part.kill().unwrap();
        }
        part.wait().unwrap();
        until("the process left behind ends", || (!runs(pids.1)).then_some(()));
        until("the folder is removed", || (!folder.exists()).then_some(()));
        assert!(runs(pids.0), "a released process is nobody's business");
        Command::new("kill").args(["-KILL", &pids.0.to_string()]).status().unwrap();
    }

    fn runs(pid: u32) -> bool {
        // One that nobody awaits any more (its parent is gone) is no longer listed, or listed as a zombie.
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
    }

    #[test]
    fn nothing_is_left_when_the_process_ends() {
        nothing_is_left(false);
    }

    #[test]
    fn nothing_is_left_when_the_process_is_killed() {
        nothing_is_left(true);
    }
}
