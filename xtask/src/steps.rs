//! Runs named steps one after the other, timed, up to the first failure.

use std::process::Command;
use std::time::{Duration, Instant};

/// A sequence of steps and what they took.
pub(crate) struct Steps {
    total: usize,
    done: Vec<(String, Duration)>,
}

impl Steps {
    /// A sequence of `total` steps.
    pub(crate) fn new(total: usize) -> Self {
        let done = Vec::new();
        Self { total, done }
    }

    /// Runs a step.
    ///
    /// # Errors
    /// The step's own reason, with its name.
    pub(crate) fn run(
        &mut self,
        name: &str,
        step: impl FnOnce() -> Result<(), String>,
    ) -> Result<(), String> {
        println!("==> [{}/{}] {name}", self.done.len() + 1, self.total);
        let start = Instant::now();
        let outcome = step();
        let took = start.elapsed();
        match outcome {
            Ok(()) => {
                println!("    {name}: ok, {:.1} s", took.as_secs_f64());
                self.done.push((name.to_string(), took));
                Ok(())
            }
            Err(reason) => {
                self.summary();
                let seconds = took.as_secs_f64();
                Err(format!(
                    "step '{name}' failed after {seconds:.1} s: {reason}"
                ))
            }
        }
    }

    /// Prints what every finished step took.
    pub(crate) fn summary(&self) {
        println!("\nsteps passed: {} of {}", self.done.len(), self.total);
        for (name, took) in &self.done {
            println!("  {name:<28}{:>8.1} s", took.as_secs_f64());
        }
    }
}

/// Runs a command to its end, its output shown as it comes.
///
/// # Errors
/// It cannot be started, or it fails.
pub(crate) fn call(command: &mut Command) -> Result<(), String> {
    let shown = show(command);
    println!("    $ {shown}");
    let status = command
        .status()
        .map_err(|error| format!("cannot start {shown}: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{shown}: {status}"))
    }
}

/// Runs a command to its end and returns what it printed.
///
/// # Errors
/// It cannot be started, or it fails; then with what it said on standard error.
pub(crate) fn output(command: &mut Command) -> Result<String, String> {
    let shown = show(command);
    let output = command
        .output()
        .map_err(|error| format!("cannot start {shown}: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{shown}: {}\n{}", output.status, said.trim_end()));
    }
    String::from_utf8(output.stdout).map_err(|_| format!("{shown} printed other than UTF-8"))
}

fn show(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let name = program.rsplit('/').next().unwrap_or(&program).to_string();
    let arguments = command
        .get_args()
        .map(|argument| argument.to_string_lossy());
    std::iter::once(name.into())
        .chain(arguments)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_is_named_and_not_counted() {
        let mut steps = Steps::new(2);
        assert_eq!(steps.run("first", || Ok(())), Ok(()));
        let error = steps.run("second", || Err("no luck".to_string()));
        assert!(
            error.is_err_and(|reason| reason.contains("'second'") && reason.ends_with("no luck"))
        );
        assert_eq!(steps.done.len(), 1);
    }

    #[test]
    fn a_failing_command_is_an_error_with_its_words() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo why >&2; exit 3"]);
        let error = output(&mut command).unwrap_err();
        assert!(
            error.contains("exit status: 3") && error.ends_with("why"),
            "{error}"
        );
        assert!(call(Command::new("sh").args(["-c", "exit 1"])).is_err());
        assert!(call(&mut Command::new("no-such-program-anywhere")).is_err());
    }
}
