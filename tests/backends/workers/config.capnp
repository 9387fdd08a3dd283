# The Worker on the workerd runtime. The address and the folder of the disk come from the command line (../run.py).
using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [
    (name = "main", worker = .exports),
    # Jobs live here. Every object has one SQLite file.
    (name = "do-disk", disk = (writable = true)),
    # RunPod's simulator is on this machine, which workerd does not call unless it is told to.
    (name = "local", network = (allow = ["local", "private", "public"])),
  ],
  sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = "main")],
);

const exports :Workerd.Worker = (
  modules = [
    (name = "worker.js", esModule = embed "worker.js"),
    (name = "gateway_signature.js", esModule = embed "gateway_signature.js"),
    (name = "job.js", esModule = embed "job.js"),
    (name = "switchboard.js", esModule = embed "switchboard.js"),
    (name = "answers.js", esModule = embed "answers.js"),
  ],
  compatibilityDate = "2026-01-01",
  bindings = [
    (name = "JOBS", durableObjectNamespace = "ExportJob"),
    (name = "KEYS", durableObjectNamespace = "StartKey"),
    (name = "BOOK", durableObjectNamespace = "JobBook"),
    (name = "RUNPOD_URL", fromEnvironment = "RUNPOD_URL"),
    (name = "IDEMPOTENT", fromEnvironment = "IDEMPOTENT"),
    (name = "POLL_MS", fromEnvironment = "POLL_MS"),
  ],
  durableObjectNamespaces = [
    (className = "ExportJob", uniqueKey = "export-job", enableSql = true),
    (className = "StartKey", uniqueKey = "start-key", enableSql = true),
    (className = "JobBook", uniqueKey = "job-book", enableSql = true),
  ],
  durableObjectStorage = (localDisk = "do-disk"),
  globalOutbound = "local",
);
