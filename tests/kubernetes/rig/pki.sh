# Makes the certificates and kubeconfigs of the cluster. Sourced.
# shellcheck shell=bash

make_certificates() {
	local name names
	mkdir -p "$PKI"
	make_key ca
	openssl req -x509 -new -key "$PKI/ca.key" -days 30 -subj /CN=growvol-test-ca -out "$PKI/ca.crt" \
		-addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
	names=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local
	make_certificate apiserver /CN=kube-apiserver serverAuth "$names,DNS:localhost,IP:127.0.0.1,IP:$API_IP,IP:$NODE_IP"
	make_certificate etcd /CN=etcd serverAuth,clientAuth DNS:localhost,IP:127.0.0.1
	make_certificate kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client clientAuth
	make_certificate admin /O=system:masters/CN=admin clientAuth
	make_certificate kube-controller-manager /CN=system:kube-controller-manager clientAuth
	make_certificate kube-scheduler /CN=system:kube-scheduler clientAuth
	make_node_certificate "$NODE" "$NODE_IP"
	for name in admin kube-controller-manager kube-scheduler "kubelet-$NODE"; do kubeconfig "$name"; done
	make_key service-account
	openssl ec -in "$PKI/service-account.key" -pubout -out "$PKI/service-account.pub"
}

# make_key NAME
make_key() { openssl ecparam -name prime256v1 -genkey -noout -out "$PKI/$1.key"; }

# make_certificate NAME SUBJECT USAGE [ALTERNATIVE-NAMES]
make_certificate() {
	make_key "$1"
	{
		echo basicConstraints=CA:FALSE
		echo keyUsage=digitalSignature
		echo "extendedKeyUsage=$3"
		[ -z "${4-}" ] || echo "subjectAltName=$4"
	} >"$PKI/$1.ext"
	openssl req -new -key "$PKI/$1.key" -subj "$2" -out "$PKI/$1.csr"
	openssl x509 -req -in "$PKI/$1.csr" -CA "$PKI/ca.crt" -CAkey "$PKI/ca.key" -CAcreateserial -days 30 \
		-extfile "$PKI/$1.ext" -out "$PKI/$1.crt"
}

# make_node_certificate NODE ADDRESS makes the certificate of a node's kubelet, for its
# client and its server.
make_node_certificate() {
	make_certificate "kubelet-$1" "/O=system:nodes/CN=system:node:$1" clientAuth,serverAuth "DNS:$1,IP:$2"
}

# kubeconfig NAME [SERVER] writes a kubeconfig with the certificate of that name.
kubeconfig() {
	cat >"$PKI/$1.kubeconfig" <<-END
		apiVersion: v1
		kind: Config
		clusters: [{name: test, cluster: {server: "https://${2-127.0.0.1:443}", tls-server-name: kubernetes, certificate-authority: $PKI/ca.crt}}]
		users: [{name: user, user: {client-certificate: $PKI/$1.crt, client-key: $PKI/$1.key}}]
		contexts: [{name: test, context: {cluster: test, user: user}}]
		current-context: test
	END
}
