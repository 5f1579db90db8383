//! The security upgrade of both meshes over TCP: libp2p's TLS 1.3 with AES-128-GCM first where the CPU has AES.
//!
//! The one file that stands in for `libp2p-tls`'s own upgrade, which puts ChaCha20 first and cannot be configured (40 %
//! more CPU per byte on machines with AES). Certificates, their check and the wire are libp2p's: `/tls/1.0.0` of other
//! libp2p programs answers. Both sides prove their key (MEMBERS-ONLY). Whether it is the key that was dialed for is
//! checked by the swarm as soon as this upgrade returns, before the connection counts as established; whether a key is
//! let in, by `channel.rs`.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::io::BufReader;
use futures::{AsyncRead, AsyncWrite, FutureExt};
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use libp2p::PeerId;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use libp2p::identity::Keypair;
use libp2p_tls::certificate;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, ClientConfig, CommonState, DigitallySignedStruct, DistinguishedName};
use rustls::{OtherError, ServerConfig, SignatureScheme, SupportedCipherSuite};
use thiserror::Error;

/// Why this process cannot speak TLS at all.
#[derive(Debug, Error)]
pub enum TlsSetupError {
    /// The certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] certificate::GenError),
    /// The cryptography library refused the configuration.
    #[error("cannot set up TLS: {0}")]
    Config(#[from] rustls::Error),
}

/// Upgrades a TCP connection to an authenticated, encrypted one.
#[derive(Clone)]
pub(super) struct TlsUpgrade {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    read_bytes: usize,
    write_bytes: usize,
}

impl TlsUpgrade {
    /// `read_bytes` are read from the socket at a time, and at most `write_bytes` written.
    pub(super) fn new(identity: &Keypair, read_bytes: usize, write_bytes: usize) -> Result<Self, TlsSetupError> {
        Self::with_suites(identity, cipher_suites(cpu_has_aes()), read_bytes, write_bytes)
    }

    fn with_suites(
        identity: &Keypair,
        suites: Vec<SupportedCipherSuite>,
        read_bytes: usize,
        write_bytes: usize,
    ) -> Result<Self, TlsSetupError> {
        let provider = Arc::new(CryptoProvider { cipher_suites: suites, ..aws_lc_rs::default_provider() });
        let (certificate, key) = certificate::generate(identity)?;
        let resolver = Arc::new(SingleCertAndKey::from(certified(certificate, &key)?));
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(PeerVerifier))
            .with_client_cert_resolver(Arc::clone(&resolver) as _);
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(PeerVerifier))
            .with_cert_resolver(resolver);
        client.alpn_protocols = vec![b"libp2p".to_vec()];
        server.alpn_protocols = vec![b"libp2p".to_vec()];
        // A resumed session would skip the certificate, which is all that tells who the other side is.
        client.resumption = Resumption::disabled();
        server.send_tls13_tickets = 0;
        Ok(Self { server: Arc::new(server), client: Arc::new(client), read_bytes, write_bytes })
    }
}

fn certified(certificate: CertificateDer<'static>, key: &PrivateKeyDer<'_>) -> Result<CertifiedKey, rustls::Error> {
    Ok(CertifiedKey::new(vec![certificate], aws_lc_rs::sign::any_ecdsa_type(key)?))
}

/// The suites in order of preference; the client's order decides.
fn cipher_suites(aes: bool) -> Vec<SupportedCipherSuite> {
    let aes_128 = cipher_suite::TLS13_AES_128_GCM_SHA256;
    let aes_256 = cipher_suite::TLS13_AES_256_GCM_SHA384;
    let chacha = cipher_suite::TLS13_CHACHA20_POLY1305_SHA256;
    if aes { vec![aes_128, aes_256, chacha] } else { vec![chacha, aes_128, aes_256] }
}

fn cpu_has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq")
    }
    #[cfg(target_arch = "aarch64")]
    {
        std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull")
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        false
    }
}

impl UpgradeInfo for TlsUpgrade {
    type Info = &'static str;
    type InfoIter = std::iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once("/tls/1.0.0")
    }
}

impl<C> InboundConnectionUpgrade<C> for TlsUpgrade
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = (PeerId, TlsStream<BufReader<C>>);
    type Error = io::Error;
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, socket: C, _: Self::Info) -> Self::Future {
        async move {
            let socket = BufReader::with_capacity(self.read_bytes, socket);
            let mut stream = TlsAcceptor::from(self.server).accept(socket).await?;
            stream.get_mut().1.set_buffer_limit(Some(self.write_bytes));
            Ok((remote_peer(stream.get_ref().1)?, stream.into()))
        }
        .boxed()
    }
}

impl<C> OutboundConnectionUpgrade<C> for TlsUpgrade
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = (PeerId, TlsStream<BufReader<C>>);
    type Error = io::Error;
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, socket: C, _: Self::Info) -> Self::Future {
        async move {
            // libp2p's TLS sends no server name; an IP address makes rustls leave it out.
            let socket = BufReader::with_capacity(self.read_bytes, socket);
            let name = ServerName::from(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            let mut stream = TlsConnector::from(self.client).connect(name, socket).await?;
            stream.get_mut().1.set_buffer_limit(Some(self.write_bytes));
            Ok((remote_peer(stream.get_ref().1)?, stream.into()))
        }
        .boxed()
    }
}

fn remote_peer(connection: &CommonState) -> io::Result<PeerId> {
    let Some([certificate]) = connection.peer_certificates() else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not exactly one certificate"));
    };
    Ok(certificate::parse(certificate).map_err(io::Error::other)?.peer_id())
}

/// Accepts any libp2p certificate that is valid and proves its key.
#[derive(Debug)]
struct PeerVerifier;

impl PeerVerifier {
    fn certificate(end_entity: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        if !others.is_empty() {
            return Err(rustls::Error::General("libp2p's TLS wants exactly one certificate".to_owned()));
        }
        certificate::parse(end_entity).map(|_| ()).map_err(bad_certificate)
    }

    fn signature(
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let certificate = certificate::parse(certificate).map_err(bad_certificate)?;
        certificate
            .verify_signature(signed.scheme, message, signed.signature())
            .map(|()| HandshakeSignatureValid::assertion())
            .map_err(|_| CertificateError::BadSignature.into())
    }

    /// What `certificate::parse` can verify and certificates are made with.
    fn schemes() -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ECDSA_NISTP384_SHA384, SignatureScheme::ED25519]
    }
}

fn bad_certificate(error: certificate::ParseError) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(error))).into()
}

fn only_tls13() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(rustls::Error::General("libp2p's TLS is 1.3 only".to_owned()))
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Self::certificate(end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        only_tls13()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Self::certificate(end_entity, intermediates).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        only_tls13()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

#[cfg(test)]
mod tests {
    use libp2p::futures::io::{AsyncReadExt, AsyncWriteExt};
    use rustls::CipherSuite;

    use super::super::tests::socket_pair;
    use super::*;

    /// The suite that `client` and `server` agree on over a loopback socket, after they saw each other's identity.
    async fn negotiated(client: Vec<SupportedCipherSuite>, server: Vec<SupportedCipherSuite>) -> CipherSuite {
        let (client_key, server_key) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        let client = TlsUpgrade::with_suites(&client_key, client, 4096, 4096).unwrap();
        let server = TlsUpgrade::with_suites(&server_key, server, 4096, 4096).unwrap();
        let (dialed, accepted) = socket_pair().await;
        let (dialed, accepted) =
            tokio::join!(client.upgrade_outbound(dialed, ""), server.upgrade_inbound(accepted, ""));
        let ((server_peer, mut dialed), (client_peer, mut accepted)) = (dialed.unwrap(), accepted.unwrap());
        assert_eq!(server_peer, server_key.public().to_peer_id());
        assert_eq!(client_peer, client_key.public().to_peer_id());
        dialed.write_all(b"hello").await.unwrap();
        dialed.flush().await.unwrap();
        let mut text = [0; 5];
        accepted.read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"hello");
        accepted.get_ref().1.negotiated_cipher_suite().unwrap().suite()
    }

    #[tokio::test]
    async fn aes_128_is_negotiated_where_the_cpu_has_aes_and_chacha20_for_a_client_without() {
        let (with, without) = (|| cipher_suites(true), || cipher_suites(false));
        assert_eq!(negotiated(with(), with()).await, CipherSuite::TLS13_AES_128_GCM_SHA256);
        assert_eq!(negotiated(with(), without()).await, CipherSuite::TLS13_AES_128_GCM_SHA256);
        assert_eq!(negotiated(without(), with()).await, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
        let here = || cipher_suites(cpu_has_aes());
        let aes_here = std::fs::read_to_string("/proc/cpuinfo").unwrap().split_whitespace().any(|flag| flag == "aes");
        let expected =
            if aes_here { CipherSuite::TLS13_AES_128_GCM_SHA256 } else { CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 };
        assert_eq!(negotiated(here(), here()).await, expected);
    }

    #[tokio::test]
    async fn libp2ps_own_tls_understands_this_one() {
        let (ours_key, theirs_key) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        let ours = TlsUpgrade::new(&ours_key, 4096, 4096).unwrap();
        let theirs = libp2p_tls::Config::new(&theirs_key).unwrap();
        let (dialed, accepted) = socket_pair().await;
        let (dialed, accepted) =
            tokio::join!(ours.clone().upgrade_outbound(dialed, ""), theirs.clone().upgrade_inbound(accepted, ""));
        assert_eq!(dialed.unwrap().0, theirs_key.public().to_peer_id());
        assert_eq!(accepted.unwrap().0, ours_key.public().to_peer_id());
        let (dialed, accepted) = socket_pair().await;
        let (dialed, accepted) = tokio::join!(theirs.upgrade_outbound(dialed, ""), ours.upgrade_inbound(accepted, ""));
        assert_eq!(dialed.unwrap().0, ours_key.public().to_peer_id());
        assert_eq!(accepted.unwrap().0, theirs_key.public().to_peer_id());
    }
}
