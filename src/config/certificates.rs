//! What TLS is made of: certificates, keys and roots from their files, and the settings of both directions.
//!
//! There is no way to have a backend that is not verified: what is made here always has a verifier with roots.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, Error, InconsistentKeys, RootCertStore, ServerConfig};
use sha2::{Digest, Sha256};

use super::attached::Contents;
use crate::limits;
use crate::routing::tls::{BackendTls, CertificateFiles, ClientConfigs, Made, ServerTls};

/// A file that is no good.
#[derive(Debug)]
pub(super) struct BadFile {
    /// Which key of its section names it.
    pub(super) key: &'static str,
    /// The file.
    pub(super) path: PathBuf,
    /// What is wrong with it, as the end of a sentence.
    pub(super) what: String,
    /// What to do.
    pub(super) advice: &'static str,
}

const H2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(ring::default_provider())).clone()
}

/// Reads the system's roots, once (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured).
pub fn system_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let read = || {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a root certificate could not be read");
        }
        let mut roots = RootCertStore::empty();
        let (used, ignored) = roots.add_parsable_certificates(found.certs);
        if used == 0 {
            tracing::warn!("no root certificates found: TLS connections to backends will fail");
        }
        tracing::debug!(used, ignored, "root certificates read");
        Arc::new(roots)
    };
    ROOTS.get_or_init(read).clone()
}

/// Makes the settings towards a backend; it is verified against these roots.
///
/// # Errors
/// The TLS library refuses its own defaults.
pub fn client_configs(roots: Arc<RootCertStore>, own: Option<CertifiedKey>) -> Result<ClientConfigs, Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_root_certificates(roots);
    let mut config = match own {
        Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own))),
        None => builder.with_no_client_auth(),
    };
    // A start must not be replayed by whoever recorded it (RFC 8446, 8).
    config.enable_early_data = false;
    config.alpn_protocols = vec![HTTP1.to_vec()];
    let http1 = Arc::new(config.clone());
    config.alpn_protocols.insert(0, H2.to_vec());
    Ok(ClientConfigs { http1, http2: Arc::new(config) })
}

/// Fills the place of what serves clients, unless `serving` has it made of the same already.
pub(super) fn make_server(
    tls: &mut ServerTls,
    contents: &Contents,
    serving: Option<&ServerTls>,
) -> Result<(), BadFile> {
    let files = tls.certificates.iter().flat_map(|files| [&files.certificate, &files.key]);
    let from = digest(&[tls.http2], files, contents);
    let known = serving.and_then(|serving| serving.made.as_ref()).filter(|made| made.from == from);
    if let Some(made) = known {
        tls.made = Some(made.clone());
        return Ok(());
    }
    let mut certificates = Certificates::default();
    for files in &tls.certificates {
        certificates.add(files, contents)?;
    }
    let config = server_config(certificates, tls.http2).map_err(|error| BadFile {
        key: "certificate",
        path: tls.certificates.first().map(|files| files.certificate.clone()).unwrap_or_default(),
        what: format!("cannot be served with: {error}"),
        advice: "",
    })?;
    tls.made = Some(Made { value: Arc::new(config), from });
    Ok(())
}

fn server_config(certificates: Certificates, http2: bool) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = if http2 { vec![H2.to_vec(), HTTP1.to_vec()] } else { vec![HTTP1.to_vec()] };
    // No early data: whoever recorded a start could send it again (RFC 8446, 8).
    config.max_early_data_size = 0;
    // Sessions are the clients' to keep: a table of them would be memory that strangers fill.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = ring::Ticketer::new()?;
    Ok(config)
}

/// Fills the place of what a backend is dialled with, unless `serving` has it made of the same already.
pub(super) fn make_client(
    tls: &mut BackendTls,
    contents: &Contents,
    serving: Option<&BackendTls>,
) -> Result<(), BadFile> {
    if !tls.names_files() {
        return Ok(());
    }
    let own = tls.certificate.iter().flat_map(|files| [&files.certificate, &files.key]);
    let flags = [u8::from(tls.roots.is_some()), u8::from(tls.certificate.is_some())].map(|flag| flag == 1);
    let from = digest(&flags, tls.roots.iter().chain(own), contents);
    let known = serving.and_then(|serving| serving.made.as_ref()).filter(|made| made.from == from);
    if let Some(made) = known {
        tls.made = Some(made.clone());
        return Ok(());
    }
    let roots = match &tls.roots {
        Some(path) => Arc::new(read_roots(path, contents)?),
        None => system_roots(),
    };
    let own = tls.certificate.as_ref().map(|files| read_pair(files, contents)).transpose()?.map(|(pair, _)| pair);
    let configs = client_configs(roots, own).map_err(|error| BadFile {
        key: "certificate",
        path: tls.certificate.as_ref().map(|files| files.certificate.clone()).unwrap_or_default(),
        what: format!("cannot be used: {error}"),
        advice: "",
    })?;
    tls.made = Some(Made { value: Arc::new(configs), from });
    Ok(())
}

fn digest<'a>(flags: &[bool], files: impl Iterator<Item = &'a PathBuf>, contents: &Contents) -> [u8; 32] {
    let mut hash = Sha256::new();
    for flag in flags {
        hash.update([u8::from(*flag)]);
    }
    for path in files {
        let bytes = contents.of(path).unwrap_or_default();
        hash.update(bytes.len().to_be_bytes());
        hash.update(bytes);
    }
    hash.finalize().into()
}

/// The certificates of the server, by the names they are for.
#[derive(Debug, Default)]
struct Certificates {
    all: Vec<Arc<CertifiedKey>>,
    /// Names in lower case, wildcards as written, and which of `all` have them: one name may have a key of each kind.
    by_name: HashMap<String, Vec<usize>>,
}

impl Certificates {
    fn add(&mut self, files: &CertificateFiles, contents: &Contents) -> Result<(), BadFile> {
        let (pair, names) = read_pair(files, contents)?;
        for name in names.into_iter().take(limits::CERTIFICATE_NAMES) {
            self.by_name.entry(name).or_default().push(self.all.len());
        }
        self.all.push(Arc::new(pair));
        Ok(())
    }

    /// Finds the certificates for a name: its own, or a wildcard for all names beside it (RFC 6125, 6.4.3).
    fn named(&self, name: &str) -> Option<&[usize]> {
        let name = name.to_ascii_lowercase();
        let wildcard = || Some(format!("*.{}", name.split_once('.')?.1));
        let found = self.by_name.get(&name).or_else(|| self.by_name.get(&wildcard()?));
        found.map(Vec::as_slice)
    }
}

impl ResolvesServerCert for Certificates {
    /// A client that asks for no name, or for one that nobody has, gets the first certificate: its own check decides.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let candidates = hello.server_name().and_then(|name| self.named(name)).unwrap_or(&[0]);
        let mut known = candidates.iter().filter_map(|at| self.all.get(*at));
        let fits = |pair: &&Arc<CertifiedKey>| pair.key.choose_scheme(hello.signature_schemes()).is_some();
        known.clone().find(fits).or_else(|| known.next()).cloned()
    }
}

/// Reads a certificate and its key; returns the names that it is for, too.
fn read_pair(files: &CertificateFiles, contents: &Contents) -> Result<(CertifiedKey, Vec<String>), BadFile> {
    let bad_key = |what: String, advice| BadFile { key: "key", path: files.key.clone(), what, advice };
    let chain = read_certificates("certificate", &files.certificate, contents)?;
    let own = chain.first().ok_or(webpki::Error::BadDer).and_then(names_of);
    let names = own.map_err(|error| BadFile {
        key: "certificate",
        path: files.certificate.clone(),
        what: format!("holds something that is no certificate: {error}"),
        advice: "it must be X.509, version 3",
    })?;
    let bytes = contents.of(&files.key).map_err(|what| bad_key(what, UNREADABLE))?;
    let key = PrivateKeyDer::from_pem_slice(bytes).map_err(|error| match error {
        PemError::NoItemsFound if memchr::memmem::find(bytes, b"ENCRYPTED").is_some() => bad_key(
            "is encrypted".to_owned(),
            "store it decrypted (openssl pkey), for the gateway's user alone to read",
        ),
        PemError::NoItemsFound => {
            bad_key("holds no private key".to_owned(), "it must be PEM: -----BEGIN PRIVATE KEY-----")
        }
        _ => bad_key("is not whole, or not PEM".to_owned(), "is something still writing it?"),
    })?;
    let pair = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => bad_key(
            format!("is not the key of {}", files.certificate.display()),
            "replace both files together; the first certificate in the chain must be the gateway's own",
        ),
        error => bad_key(format!("cannot be used: {error}"), "ECDSA (P-256, P-384), Ed25519 and RSA keys can"),
    })?;
    Ok((pair, names))
}

/// Returns a certificate's names in lower case.
fn names_of(der: &CertificateDer<'_>) -> Result<Vec<String>, webpki::Error> {
    let parsed = webpki::EndEntityCert::try_from(der)?;
    Ok(parsed.valid_dns_names().map(str::to_ascii_lowercase).collect())
}

const UNREADABLE: &str = "let the gateway's user read it, and enter its folders";

fn read_certificates(
    key: &'static str,
    path: &Path,
    contents: &Contents,
) -> Result<Vec<CertificateDer<'static>>, BadFile> {
    let bad = |what: String, advice| BadFile { key, path: path.to_owned(), what, advice };
    let bytes = contents.of(path).map_err(|what| bad(what, UNREADABLE))?;
    let certificates: Result<Vec<_>, PemError> = CertificateDer::pem_slice_iter(bytes).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => {
            Err(bad("holds no certificate".to_owned(), "it must be PEM: -----BEGIN CERTIFICATE-----"))
        }
        Ok(certificates) => Ok(certificates),
        Err(_) => Err(bad("is not whole, or not PEM".to_owned(), "is something still writing it?")),
    }
}

fn read_roots(path: &Path, contents: &Contents) -> Result<RootCertStore, BadFile> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates("roots", path, contents)? {
        roots.add(certificate).map_err(|error| BadFile {
            key: "roots",
            path: path.to_owned(),
            what: format!("holds a certificate that is no root: {error}"),
            advice: "",
        })?;
    }
    Ok(roots)
}
