//! A host of its own: a thread in a network namespace that only its guests and children share.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::Handle;
use thiserror::Error;
use tokio::runtime::Runtime;

/// The namespace of the thread that looks.
const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";

/// Why there is no network for the servers.
#[derive(Debug, Error)]
pub enum NetworkError {
    /// The kernel makes no namespace for us.
    #[error("cannot {action}: {source}; run as root, on a kernel with namespaces")]
    Namespace {
        /// What was tried.
        action: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
    /// The kernel refuses a link, an address or a neighbour.
    #[error("cannot {action}: {source}; the kernel needs veth and bridge devices")]
    Netlink {
        /// What was tried.
        action: &'static str,
        /// What the kernel says.
        source: rtnetlink::Error,
    },
    /// A link that was just made is not there.
    #[error("the kernel does not show link {name}, which it was asked to make")]
    NoLink {
        /// Its name.
        name: &'static str,
    },
}

impl NetworkError {
    /// For `map_err`: what the kernel refused.
    pub(crate) fn netlink(action: &'static str) -> impl FnOnce(rtnetlink::Error) -> Self {
        move |source| Self::Netlink { action, source }
    }

    fn namespace(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Namespace { action, source }
    }
}

type Job = Box<dyn FnOnce(&Netlink) + Send>;

/// A network namespace and the thread that does what is to be done inside. It exists as long as
/// this value, a process that was started inside, or a socket.
pub(crate) struct Host {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    namespace: File,
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // It panics only with a job, whose caller has panicked too.
            let _ = thread.join();
        }
    }
}

impl Host {
    /// Makes a namespace with nothing in it.
    pub(crate) fn create(name: &str) -> Result<Self, NetworkError> {
        let (jobs, due) = mpsc::channel::<Job>();
        let (started, has_started) = mpsc::channel();
        let inside = move || match Netlink::in_new_namespace() {
            Ok((netlink, namespace)) => {
                // The creator waits for it.
                let _ = started.send(Ok(namespace));
                due.into_iter().for_each(|job| job(&netlink));
            }
            Err(error) => {
                let _ = started.send(Err(error));
            }
        };
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(inside)
            .map_err(NetworkError::namespace("start a thread"))?;
        let namespace = has_started
            .recv()
            .expect("the thread says how it started")?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
            namespace,
        })
    }

    /// Does something inside and waits for it. What it starts or opens belongs to the namespace.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Netlink) -> T + Send + 'static,
    ) -> T {
        let (done, is_done) = mpsc::channel();
        let job: Job = Box::new(move |netlink| {
            // The caller waits for it.
            let _ = done.send(job(netlink));
        });
        let jobs = self.jobs.as_ref().expect("it is taken only by drop");
        jobs.send(job).expect("the thread ends with the host");
        is_done.recv().expect("the job does not panic")
    }

    /// The namespace, for links that are moved into it.
    pub(crate) fn namespace(&self) -> Result<File, NetworkError> {
        self.namespace
            .try_clone()
            .map_err(NetworkError::namespace("refer to a namespace"))
    }

    /// Takes the calling thread into the namespace, for good.
    pub(crate) fn enter(&self) -> Result<(), NetworkError> {
        setns(&self.namespace, CloneFlags::CLONE_NEWNET)
            .map_err(io::Error::from)
            .map_err(NetworkError::namespace("enter a network namespace"))
    }

    /// Puts a disk of its own at a directory, seen only from inside.
    pub(crate) fn mount_disk(&self, at: PathBuf, bytes: u64) -> Result<(), NetworkError> {
        let mounted = self.run(move |_| {
            unshare(CloneFlags::CLONE_NEWNS)?;
            // Or the mount would be seen by everybody.
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(NOTHING, "/", NOTHING, private, NOTHING)?;
            mount_tmpfs(&at, bytes, MsFlags::empty())
        });
        mounted.map_err(NetworkError::namespace("mount a disk"))
    }

    /// Leaves so much room on the disk that is mounted there: at once, and without writing anything.
    pub(crate) fn set_room(&self, at: PathBuf, room: Room) -> Result<(), NetworkError> {
        let resized = self.run(move |_| {
            let mut outcome = Ok(());
            for _ in 0..RESIZE_ATTEMPTS {
                let bytes = match room {
                    Room::Of { bytes } => bytes,
                    Room::None => bytes_used(&at)?,
                };
                outcome = mount_tmpfs(&at, bytes, MsFlags::MS_REMOUNT);
                if outcome.is_ok() {
                    break;
                }
                // Something was written since we looked: it cannot become smaller than that.
            }
            outcome
        });
        resized.map_err(NetworkError::namespace("resize a disk"))
    }
}

/// How large a disk is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// So large.
    Of {
        /// Its size.
        bytes: u64,
    },
    /// As large as what is there.
    None,
}

const NOTHING: Option<&str> = None;

/// Attempts to make a disk as small as what is on it, while somebody writes.
const RESIZE_ATTEMPTS: u32 = 100;

fn mount_tmpfs(at: &Path, bytes: u64, flags: MsFlags) -> io::Result<()> {
    let size = format!("size={bytes}");
    let mounted = mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some(size.as_str()));
    Ok(mounted?)
}

fn bytes_used(at: &Path) -> io::Result<u64> {
    let room = rustix::fs::statvfs(at)?;
    Ok((room.f_blocks - room.f_bfree) * room.f_frsize)
}

/// The kernel's interface for links and addresses of one namespace.
pub(crate) struct Netlink {
    runtime: Runtime,
    handle: Handle,
}

impl Netlink {
    /// Takes this thread into a new namespace.
    fn in_new_namespace() -> Result<(Self, File), NetworkError> {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(io::Error::from)
            .map_err(NetworkError::namespace("make a network namespace"))?;
        let namespace =
            File::open(OWN_NAMESPACE).map_err(NetworkError::namespace("refer to a namespace"))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(NetworkError::namespace("make a runtime"))?;
        let entered = runtime.enter();
        let (connection, handle, _) = rtnetlink::new_connection()
            .map_err(NetworkError::namespace("talk to the kernel about links"))?;
        runtime.spawn(connection);
        drop(entered);
        Ok((Self { runtime, handle }, namespace))
    }

    /// Asks the kernel.
    pub(crate) fn ask<T>(&self, question: impl AsyncFnOnce(&Handle) -> T) -> T {
        self.runtime.block_on(question(&self.handle))
    }
}
