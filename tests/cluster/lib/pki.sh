# shellcheck shell=bash
# The certificates and kubeconfigs of a built cluster; to be sourced.
CERTIFICATE_DAYS=3650

# make_authority: the cluster's own authority and the key that signs service account tokens.
make_authority() {
  mkdir -p "$BUILT/pki"
  chmod 700 "$BUILT/pki"
  openssl ecparam -name prime256v1 -genkey -noout -out "$BUILT/pki/service-accounts.key"
  openssl ec -in "$BUILT/pki/service-accounts.key" -pubout -out "$BUILT/pki/service-accounts.pub" 2>/dev/null
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=headrace-local \
    -days $CERTIFICATE_DAYS -keyout "$BUILT/pki/ca.key" -out "$BUILT/pki/ca.crt" 2>/dev/null
}

# make_certificate NAME USER GROUP
make_certificate() {
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/O=$3/CN=$2" \
    -keyout "$BUILT/pki/$1.key" -out "$BUILT/pki/$1.csr" 2>/dev/null
  openssl x509 -req -in "$BUILT/pki/$1.csr" -CA "$BUILT/pki/ca.crt" -CAkey "$BUILT/pki/ca.key" -CAcreateserial \
    -days $CERTIFICATE_DAYS -out "$BUILT/pki/$1.crt" -extfile <(
      echo "subjectAltName=IP:127.0.0.1,IP:$NODE_IP,IP:$API_SERVICE_IP,DNS:localhost,DNS:kubernetes.default.svc"
    ) 2>/dev/null
}

# make_kubeconfig NAME SERVER: self-contained, as users copy it.
make_kubeconfig() {
  cat >"$BUILT/$1.kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters:
- name: headrace
  cluster: {server: "$2", certificate-authority-data: $(base64 -w0 "$BUILT/pki/ca.crt")}
users:
- name: $1
  user: {client-certificate-data: $(base64 -w0 "$BUILT/pki/$1.crt"), client-key-data: $(base64 -w0 "$BUILT/pki/$1.key")}
contexts:
- name: headrace
  context: {cluster: headrace, user: $1}
current-context: headrace
YAML
  chmod 600 "$BUILT/$1.kubeconfig"
}
