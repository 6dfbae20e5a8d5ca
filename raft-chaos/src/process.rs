//! A server process of ours, ended when dropped.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// A running server.
pub(crate) struct Process {
    child: Child,
    /// The server ends when this is closed, so it does not outlive us.
    _stdin: Option<ChildStdin>,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// Starts it in a process group of its own: should we die while it is stopped, the group is an
    /// orphan, and the system ends it.
    pub(crate) fn start(command: &mut Command) -> io::Result<Self> {
        let command = command.process_group(0).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::null()).spawn()?;
        Ok(Self {
            _stdin: child.stdin.take(),
            child,
        })
    }

    /// SIGKILL, and waits.
    pub(crate) fn kill(mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// SIGSTOP, and waits until every thread stands still.
    pub(crate) fn pause(&self) -> io::Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::STOP)?;
        // Its threads run on until one of them has had the time to stop the others.
        let how = waitpid(Some(pid), WaitOptions::UNTRACED)?;
        match how {
            Some((_, how)) if how.stopped() => Ok(()),
            Some(_) | None => Err(io::Error::other("it has ended")),
        }
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) -> io::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::CONT)?)
    }

    /// SIGTERM.
    pub(crate) fn ask_to_end(&self) -> io::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::TERM)?)
    }

    /// How it has ended, if it has.
    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }
}
