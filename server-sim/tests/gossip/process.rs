//! The test executable once more, in another namespace and in another part.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};

/// Begins every line that is meant for the test; the rest is what the test runner prints, and logs.
const MARK: &str = "@";

/// Says something to the test that has started this process.
pub fn say(line: &str) {
    println!("{MARK}{line}");
}

/// A started process, killed on drop.
#[derive(Debug)]
pub struct Process {
    child: Child,
    input: ChildStdin,
    said: Arc<Mutex<Vec<String>>>,
}

impl Process {
    /// Starts this executable as `part` in that namespace, with `task` as its environment's `TASK`.
    pub fn start(namespace: &str, part: &str, task: &str) -> Process {
        let mut child = Command::new("ip")
            .args(["netns", "exec", namespace])
            .arg(std::env::current_exe().unwrap())
            .args([part, "--exact", "--ignored", "--nocapture"])
            .env("TASK", task)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let said = Arc::new(Mutex::new(Vec::new()));
        let all = said.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // The runner's own line about the test may stand before the first of ours.
                if let Some((_, line)) = line.split_once(MARK) {
                    all.lock().unwrap().push(line.to_owned());
                }
            }
        });
        Process { child, input, said }
    }

    /// Everything it has said so far.
    pub fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }

    /// Tells it something.
    pub fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Sends it a signal, `KILL` for example.
    pub fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
