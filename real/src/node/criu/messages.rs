//! The messages of CRIU's RPC that are used here. Numbers and types are those of CRIU's `rpc.proto`, which only ever adds to them.

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Kind {
    /// Nothing.
    Empty = 0,
    /// A checkpoint.
    Dump = 1,
    /// A restore.
    Restore = 2,
    /// Whether kernel features are there.
    FeatureCheck = 9,
    /// CRIU's version.
    Version = 10,
}

/// Options of a checkpoint or restore.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Options {
    /// Folder of the images: a descriptor of the asking process.
    #[prost(int32, required, tag = "1")]
    pub images_dir_fd: i32,
    /// First process of the tree.
    #[prost(int32, optional, tag = "2")]
    pub pid: Option<i32>,
    /// The tree goes on after the checkpoint.
    #[prost(bool, optional, tag = "3")]
    pub leave_running: Option<bool>,
    /// 1: errors, 2: warnings, 4: all.
    #[prost(int32, optional, tag = "9")]
    pub log_level: Option<i32>,
    /// Name of the log, in the working folder.
    #[prost(string, optional, tag = "10")]
    pub log_file: Option<String>,
    /// Root of what is restored, where it has mounts of its own.
    #[prost(string, optional, tag = "13")]
    pub root: Option<String>,
    /// Working folder, a descriptor of the asking process; the socket of the page server is looked for there.
    #[prost(int32, optional, tag = "17")]
    pub work_dir_fd: Option<i32>,
    /// Whether the following mode holds.
    #[prost(bool, optional, tag = "24")]
    pub manage_cgroups: Option<bool>,
    /// The restored tree is a child of whoever started CRIU.
    #[prost(bool, optional, tag = "26")]
    pub rst_sibling: Option<bool>,
    /// 0: cgroups are somebody else's.
    #[prost(int32, optional, tag = "34")]
    pub manage_cgroups_mode: Option<i32>,
    /// Largest deleted file that is kept with the images, bytes.
    #[prost(uint32, optional, tag = "35")]
    pub ghost_limit: Option<u32>,
    /// What is not in the images: `mnt[]` for all mounts that CRIU finds at the same place outside.
    #[prost(string, repeated, tag = "37")]
    pub external: Vec<String>,
    /// Kinds of namespaces (flags of clone(2)) that are restored empty, and of which nothing is kept.
    #[prost(uint32, optional, tag = "38")]
    pub empty_ns: Option<u32>,
    /// Seconds until CRIU gives up collecting the tree.
    #[prost(uint32, optional, tag = "45")]
    pub timeout: Option<u32>,
    /// Private memory is not read from the images but asked for over userfaultfd.
    #[prost(bool, optional, tag = "48")]
    pub lazy_pages: Option<bool>,
    /// How the network is shut off while the tree is collected; 3: not at all.
    #[prost(int32, optional, tag = "64")]
    pub network_lock: Option<i32>,
    /// The tree is left stopped (SIGSTOP).
    #[prost(bool, optional, tag = "69")]
    pub leave_stopped: Option<bool>,
}

/// Features to ask for, and whether they are there.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Features {
    /// Lazy restore over userfaultfd.
    #[prost(bool, optional, tag = "2")]
    pub lazy_pages: Option<bool>,
}

/// A request.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Request {
    /// Its kind.
    #[prost(enumeration = "Kind", required, tag = "1")]
    pub kind: i32,
    /// Options.
    #[prost(message, optional, tag = "2")]
    pub options: Option<Options>,
    /// Features asked for.
    #[prost(message, optional, tag = "5")]
    pub features: Option<Features>,
}

/// What a restore gives.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RestoreAnswer {
    /// First process of the tree.
    #[prost(int32, required, tag = "1")]
    pub pid: i32,
}

/// CRIU's version.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Version {
    /// Major.
    #[prost(int32, required, tag = "1")]
    pub major: i32,
    /// Minor.
    #[prost(int32, required, tag = "2")]
    pub minor: i32,
    /// Third number.
    #[prost(int32, optional, tag = "4")]
    pub sub: Option<i32>,
}

/// An answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Response {
    /// The request's kind.
    #[prost(enumeration = "Kind", required, tag = "1")]
    pub kind: i32,
    /// Whether it went well.
    #[prost(bool, required, tag = "2")]
    pub success: bool,
    /// Of a restore.
    #[prost(message, optional, tag = "4")]
    pub restore: Option<RestoreAnswer>,
    /// A system error's number.
    #[prost(int32, optional, tag = "7")]
    pub errno: Option<i32>,
    /// Which features are there.
    #[prost(message, optional, tag = "8")]
    pub features: Option<Features>,
    /// What went wrong.
    #[prost(string, optional, tag = "9")]
    pub message: Option<String>,
    /// Of a version request.
    #[prost(message, optional, tag = "10")]
    pub version: Option<Version>,
}
