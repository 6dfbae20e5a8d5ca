//! The server's configuration file: TOML, every flag of `server` by its name.
//!
//! What the file says becomes the default of the flag, so that the order is that of the arguments
//! themselves: a flag beats the environment, the environment beats the file, the file beats the
//! built-in default. Each value is checked by the flag's own rules first, so that a mistake is told
//! with its line.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};
use thiserror::Error;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::args::Cli;

/// The subcommand that is configured.
const SERVER: &str = "server";
/// Flags that are not settings.
const NO_SETTINGS: [&str; 4] = [CONFIG, "check", "help", "version"];
/// The flag that names the file.
const CONFIG: &str = "config";
/// A flag of all commands that a server needs, too.
const TLS_DIR: &str = "tls-dir";
/// Names more alike than this are offered for an unknown one.
const SIMILAR: f64 = 0.7;

/// Arguments, and what is in force for a server.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) cli: Cli,
    pub(super) effective: Effective,
}

/// The settings of a server as they are in force. Prints as a configuration file that says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Effective {
    /// The configuration file, if there is one.
    pub(super) file: Option<PathBuf>,
    settings: Vec<Setting>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Setting {
    name: String,
    /// As in a file; `None` if it is not set.
    value: Option<String>,
    origin: Origin,
}

/// Where a setting comes from; the later beats the earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Default,
    File,
    Environment,
    Flag,
}

impl Effective {
    /// The names of the settings that come from there, for a log.
    pub(super) fn names_from(&self, origin: Origin) -> String {
        let found = self.settings.iter().filter(|s| s.origin == origin);
        let names: Vec<_> = found.map(|setting| setting.name.as_str()).collect();
        names.join(" ")
    }
}

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Setting {
            name,
            value,
            origin,
        } in &self.settings
        {
            let origin = match origin {
                Origin::Default => "default",
                Origin::File => "file",
                Origin::Environment => "environment",
                Origin::Flag => "flag",
            };
            match value {
                Some(value) => writeln!(f, "{name} = {value} # {origin}")?,
                None => writeln!(f, "# {name} is not set")?,
            }
        }
        Ok(())
    }
}

/// Why there are no arguments to work with.
#[derive(Debug, Error)]
pub(super) enum ParseError {
    /// The arguments themselves: also help and version, which are no mistakes.
    #[error(transparent)]
    Arguments(#[from] clap::Error),
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    /// The file says something that cannot be.
    #[error("{}:{line}: {problem}", path.display())]
    Content {
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        problem: Problem,
    },
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum Problem {
    #[error("{0}")]
    Syntax(String),
    #[error("there is no setting {name:?}{}", offer(.nearest.as_deref()))]
    Unknown {
        name: String,
        nearest: Option<String>,
    },
    #[error("{name} takes {expected}, not {found}")]
    Type {
        name: String,
        expected: &'static str,
        found: &'static str,
    },
    /// In the words of the flag's own parser.
    #[error("{0}")]
    Value(String),
}

fn offer(nearest: Option<&str>) -> String {
    match nearest {
        Some(name) => format!("; did you mean {name:?}?"),
        None => "; every flag of `raft-kv server` is one, by its name".to_owned(),
    }
}

/// Parses arguments with the environment and, for a server, its configuration file.
///
/// # Errors
/// [`ParseError`].
pub(super) fn parse(arguments: Vec<OsString>) -> Result<Parsed, ParseError> {
    let mut command = Cli::command();
    let path = path_of(&arguments);
    let mut settings = BTreeMap::new();
    if let Some(path) = &path {
        let text = fs::read_to_string(path).map_err(|source| ParseError::Read {
            path: path.clone(),
            source,
        })?;
        settings = read(&text).map_err(|(span, problem)| ParseError::Content {
            path: path.clone(),
            line: line_of(&text, &span),
            problem,
        })?;
        command = with_defaults(command, &settings);
    }
    let matches = command.try_get_matches_from(arguments)?;
    Ok(Parsed {
        cli: Cli::from_arg_matches(&matches)?,
        effective: effective(&matches, path, &settings),
    })
}

/// The file that flag or environment name, if a server is to be started and nothing else is wrong
/// with the arguments.
fn path_of(arguments: &[OsString]) -> Option<PathBuf> {
    let lenient = Cli::command().mut_subcommand(SERVER, |server| {
        server.mut_args(|argument| argument.required(false))
    });
    let matches = lenient.try_get_matches_from(arguments).ok()?;
    let server = matches.subcommand_matches(SERVER)?;
    server.get_one::<PathBuf>(CONFIG).cloned()
}

fn effective(matches: &ArgMatches, file: Option<PathBuf>, in_file: &Settings) -> Effective {
    let Some(server) = matches.subcommand_matches(SERVER) else {
        return Effective::default();
    };
    let setting = |argument: Arg| {
        let name = name_of(&argument).to_owned();
        let id = argument.get_id().as_str();
        let origin = match server.value_source(id) {
            Some(ValueSource::CommandLine) => Origin::Flag,
            Some(ValueSource::EnvVariable) => Origin::Environment,
            _ if in_file.contains_key(&name) => Origin::File,
            _ => Origin::Default,
        };
        let raw = server.get_raw(id);
        let raw = raw.map(|all| all.map(|one| one.to_string_lossy().into_owned()).collect());
        Setting {
            value: as_in_file(&shape_of(&argument), raw.unwrap_or_default()),
            name,
            origin,
        }
    };
    Effective {
        file,
        settings: configurable().into_iter().map(setting).collect(),
    }
}

fn as_in_file(shape: &Shape, raw: Vec<String>) -> Option<String> {
    // What JSON quotes, TOML reads.
    let quoted = |text: &String| serde_json::Value::from(text.as_str()).to_string();
    let first = raw.first();
    match shape {
        Shape::Switch => Some(first.cloned().unwrap_or_else(|| false.to_string())),
        Shape::Number => first.cloned(),
        Shape::Text => first.map(quoted),
        Shape::List => {
            let items: Vec<_> = raw.iter().map(quoted).collect();
            (!items.is_empty()).then(|| format!("[{}]", items.join(", ")))
        }
    }
}

/// Values as they would be given on the command line, by the name of the flag.
type Settings = BTreeMap<String, Vec<OsString>>;
type Misplaced = (Range<usize>, Problem);

/// The flags that may be in a file.
fn configurable() -> Vec<Arg> {
    let mut root = Cli::command();
    root.build();
    let server = root.find_subcommand(SERVER);
    let arguments = server.into_iter().flat_map(Command::get_arguments);
    let is_configurable = |argument: &&Arg| {
        let Some(name) = argument.get_long() else {
            return false;
        };
        let is_own = !argument.is_global_set() || name == TLS_DIR;
        is_own && !argument.is_hide_set() && !NO_SETTINGS.contains(&name)
    };
    arguments.filter(is_configurable).cloned().collect()
}

fn name_of(argument: &Arg) -> &str {
    argument
        .get_long()
        .expect("only flags with a long name are configurable")
}

fn read(text: &str) -> Result<Settings, Misplaced> {
    let table = DeTable::parse(text).map_err(|error| {
        let span = error.span().unwrap_or_default();
        (span, Problem::Syntax(error.message().to_owned()))
    })?;
    let arguments = configurable();
    let mut settings = Settings::new();
    for (key, value) in table.get_ref() {
        let name: &str = key.get_ref();
        let Some(argument) = arguments.iter().find(|a| name_of(a) == name) else {
            let problem = Problem::Unknown {
                name: name.to_owned(),
                nearest: nearest(name, &arguments),
            };
            return Err((key.span(), problem));
        };
        let values = values_of(argument, value).map_err(|problem| (value.span(), problem))?;
        for value in &values {
            check(argument, value).map_err(|problem| (key.span(), problem))?;
        }
        settings.insert(name.to_owned(), values);
    }
    Ok(settings)
}

fn nearest(name: &str, arguments: &[Arg]) -> Option<String> {
    // With underscores it is a slip of the pen.
    let name = name.replace('_', "-");
    let known = arguments.iter().map(name_of);
    let alike = known.map(|known| (strsim::jaro_winkler(&name, known), known));
    let best = alike.max_by(|(a, _), (b, _)| a.total_cmp(b))?;
    (best.0 > SIMILAR).then(|| best.1.to_owned())
}

/// The shape of a flag's values.
enum Shape {
    Switch,
    Number,
    Text,
    List,
}

fn shape_of(argument: &Arg) -> Shape {
    if matches!(
        argument.get_action(),
        ArgAction::SetTrue | ArgAction::SetFalse
    ) {
        return Shape::Switch;
    }
    if matches!(argument.get_action(), ArgAction::Append) {
        return Shape::List;
    }
    let id = argument.get_value_parser().type_id();
    let numbers = [
        TypeId::of::<u16>(),
        TypeId::of::<u32>(),
        TypeId::of::<u64>(),
        TypeId::of::<usize>(),
    ];
    if numbers.iter().any(|number| id == *number) {
        Shape::Number
    } else {
        Shape::Text
    }
}

fn values_of(argument: &Arg, value: &Spanned<DeValue<'_>>) -> Result<Vec<OsString>, Problem> {
    let value = value.get_ref();
    let wrong = |expected, found: &DeValue<'_>| Problem::Type {
        name: name_of(argument).to_owned(),
        expected,
        found: found.type_str(),
    };
    match (shape_of(argument), value) {
        (Shape::Switch, DeValue::Boolean(on)) => Ok(vec![on.to_string().into()]),
        (Shape::Switch, other) => Err(wrong("true or false", other)),
        (Shape::Number, DeValue::Integer(number)) if number.radix() == 10 => {
            Ok(vec![number.as_str().into()])
        }
        (Shape::Number, other) => Err(wrong("a decimal number", other)),
        (Shape::Text, DeValue::String(text)) => Ok(vec![text.as_ref().into()]),
        (Shape::Text, other) => Err(wrong("a text in quotes", other)),
        (Shape::List, DeValue::Array(items)) => items
            .iter()
            .map(|item| {
                let item = item.get_ref();
                let text = item.as_str().map(OsString::from);
                text.ok_or_else(|| wrong("a list of texts in quotes", item))
            })
            .collect(),
        (Shape::List, other) => Err(wrong("a list of texts in quotes", other)),
    }
}

/// Asks the flag's own parser.
fn check(argument: &Arg, value: &OsString) -> Result<(), Problem> {
    if let Shape::Switch = shape_of(argument) {
        return Ok(());
    }
    let mut flag = OsString::from(format!("--{}=", name_of(argument)));
    flag.push(value);
    let others = configurable().into_iter().map(|argument| {
        let argument = argument.required(false).global(false);
        argument.env(Resettable::Reset)
    });
    let alone = Command::new(SERVER).no_binary_name(true).args(others);
    match alone.try_get_matches_from([flag]) {
        Ok(_) => Ok(()),
        Err(error) => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            let first = first.strip_prefix("error: ").unwrap_or(first);
            Err(Problem::Value(first.to_owned()))
        }
    }
}

fn with_defaults(command: Command, settings: &Settings) -> Command {
    let apply = |argument: Arg| {
        let values = argument.get_long().and_then(|name| settings.get(name));
        match values {
            Some(values) if !values.is_empty() => {
                argument.required(false).default_values(values.clone())
            }
            Some(_) | None => argument,
        }
    };
    command
        .mut_subcommand(SERVER, |server| server.mut_args(apply))
        .mut_args(apply)
}

fn line_of(text: &str, span: &Range<usize>) -> usize {
    let before = text.get(..span.start).unwrap_or(text);
    before.matches('\n').count() + 1
}

#[cfg(test)]
#[path = "config_file_test.rs"]
mod tests;
