//! Child processes that are always ended by whoever started them, and calls with a deadline.

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Pause between two looks at a child.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// A child process; killed when dropped.
pub(crate) struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts it.
    pub(crate) fn start(name: &str, command: &mut Command) -> Result<Self, String> {
        let child = command
            .spawn()
            .map_err(|error| format!("cannot start {name}: {error}"))?;
        let name = name.to_string();
        Ok(Self { name, child })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>, String> {
        let outcome = self.child.try_wait();
        outcome.map_err(|error| format!("cannot look at {}: {error}", self.name))
    }

    /// Ends it by SIGKILL and waits for its end.
    pub(crate) fn kill(&mut self) -> Result<(), String> {
        let outcome = self.child.kill().and_then(|()| self.child.wait());
        match outcome {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("cannot kill {}: {error}", self.name)),
        }
    }

    /// Asks it to stop by SIGTERM, and waits.
    pub(crate) fn stop(&mut self, patience: Duration) -> Result<(), String> {
        let Some(pid) = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
        else {
            return Err(format!("{} has no process id", self.name));
        };
        // It was not waited for yet, so the id is still its own.
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .map_err(|error| format!("cannot stop {}: {error}", self.name))?;
        match self.wait(patience)? {
            status if status.success() => Ok(()),
            status => Err(format!("{} stopped with {status}", self.name)),
        }
    }

    /// Ends its only child by SIGKILL, and waits until it ends for that reason.
    pub(crate) fn kill_child(mut self, patience: Duration) -> Result<(), String> {
        let id = self.child.id();
        let path = format!("/proc/{id}/task/{id}/children");
        let children = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        let child = children.split_whitespace().next();
        let child = child.and_then(|child| child.parse().ok());
        let Some(pid) = child.and_then(rustix::process::Pid::from_raw) else {
            return Err(format!("{} has no child: {children:?}", self.name));
        };
        // Its parent runs and has not waited for it, so the id is still its own.
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)
            .map_err(|error| format!("cannot kill what {} runs: {error}", self.name))?;
        self.wait(patience).map(drop)
    }

    fn wait(&mut self, patience: Duration) -> Result<ExitStatus, String> {
        let start = Instant::now();
        while start.elapsed() < patience {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            thread::sleep(LOOK_AGAIN);
        }
        self.kill()?;
        let seconds = patience.as_secs();
        Err(format!(
            "{} did not end within {seconds} s, and was killed",
            self.name
        ))
    }

    /// Waits for its end and collects what it wrote to the pipes it has.
    pub(crate) fn finish(mut self, patience: Duration) -> Result<Output, String> {
        let stdout = self.child.stdout.take().map(collect);
        let stderr = self.child.stderr.take().map(collect);
        let status = self.wait(patience)?;
        let text = |reader: Option<thread::JoinHandle<Vec<u8>>>| {
            // The reader only reads; if it panicked there is nothing to show.
            reader
                .and_then(|reader| reader.join().ok())
                .unwrap_or_default()
        };
        Ok(Output {
            status,
            stdout: text(stdout),
            stderr: text(stderr),
        })
    }

    /// Writes its standard input in the background and closes it.
    fn feed(&mut self, bytes: Vec<u8>) {
        if let Some(mut stdin) = self.child.stdin.take() {
            // A child that ends early says why by itself; nobody waits for this thread.
            thread::spawn(move || stdin.write_all(&bytes));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ended = self.kill();
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is all there is to show.
        let _read = pipe.read_to_end(&mut bytes);
        bytes
    })
}

/// Runs a command with this input to its end, and collects what it says.
pub(crate) fn call(
    name: &str,
    command: &mut Command,
    input: Vec<u8>,
    patience: Duration,
) -> Result<Output, String> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut process = Process::start(name, command)?;
    process.feed(input);
    process.finish(patience)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn input_and_both_outputs_pass_through() {
        let input = vec![b'x'; 1 << 20];
        let output = call(
            "sh",
            &mut shell("cat; echo e >&2; exit 3"),
            input.clone(),
            PATIENCE,
        );
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(3));
        assert_eq!(output.stdout, input);
        assert_eq!(output.stderr, b"e\n");
    }

    #[test]
    fn a_child_that_hangs_is_killed_at_the_deadline() {
        let patience = Duration::from_millis(50);
        let error = call("it", &mut shell("exec sleep 600"), Vec::new(), patience).unwrap_err();
        assert!(error.starts_with("it did not end within"), "{error}");
    }

    #[test]
    fn stopping_tells_a_clean_end_from_another() {
        // The script says when its trap is set.
        for (code, is_clean) in [(0, true), (7, false)] {
            let script = format!("trap 'exit {code}' TERM; echo; while :; do sleep 0.01; done");
            let mut command = shell(&script);
            let mut process = Process::start("it", command.stdout(Stdio::piped())).unwrap();
            let mut ready = [0];
            process
                .child
                .stdout
                .as_mut()
                .unwrap()
                .read_exact(&mut ready)
                .unwrap();
            assert_eq!(process.stop(PATIENCE).is_ok(), is_clean);
        }
    }
}
