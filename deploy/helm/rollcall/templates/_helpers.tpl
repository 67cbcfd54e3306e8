{{- define "rollcall.fullname" -}}
{{- if contains "rollcall" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-rollcall" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "rollcall.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{ include "rollcall.releaseSelector" . }}
{{- end }}

{{- define "rollcall.releaseSelector" -}}
app.kubernetes.io/name: rollcall
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* (list $ component) */ -}}
{{- define "rollcall.selector" -}}
{{ include "rollcall.releaseSelector" (index . 0) }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- /* The same for flow style. */ -}}
{{- define "rollcall.releaseSelectorFlow" -}}
{{ include "rollcall.releaseSelector" . | fromYaml | toJson }}
{{- end }}

{{- define "rollcall.selectorFlow" -}}
{{ include "rollcall.selector" . | fromYaml | toJson }}
{{- end }}

{{- define "rollcall.name" -}}
{{ include "rollcall.fullname" (index . 0) }}-{{ index . 1 }}
{{- end }}

{{- define "rollcall.image" -}}
{{- with .Values.image }}{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}{{ end }}
{{- end }}

{{- /* DNS name within the cluster: (list $ "service") */ -}}
{{- define "rollcall.host" -}}
{{ include "rollcall.name" . }}.{{ (index . 0).Release.Namespace }}.svc
{{- end }}

{{- define "rollcall.verifierAddress" -}}
{{- $root := index . 0 }}{{ $name := index . 1 -}}
{{ include "rollcall.host" (list $root (printf "verifier-%s" $name)) }}:{{ (index $root.Values.verifiers $name).port }}
{{- end }}

{{- define "rollcall.tlsSecret" -}}
{{- $root := index . 0 }}{{ $role := index . 1 -}}
{{ index $root.Values.tls.secrets $role | default (printf "%s-tls" (include "rollcall.name" (list $root $role))) }}
{{- end }}

{{- /* Processes that train together: run.learner.ranks. */ -}}
{{- define "rollcall.ranks" -}}
{{- $learner := .Values.run.learner | default dict }}{{ max 1 (int ($learner.ranks | default 1)) }}
{{- end }}

{{- /* Host of rank 0, whom operators ask and where ranks find each other. */ -}}
{{- define "rollcall.learnerHost" -}}
{{ include "rollcall.name" (list . "learner") }}-0.{{ include "rollcall.host" (list . "learner") }}
{{- end }}

{{- /* Names of the verifiers that are reward models whose server this release runs, as a JSON list under "names". */ -}}
{{- define "rollcall.rewardModels" -}}
{{- $names := list }}
{{- range $verifier := (.Values.run.reward | default dict).verifiers }}
{{- if and $verifier.reward_model (not $verifier.reward_model.address) }}{{ $names = append $names $verifier.name }}{{ end }}
{{- end }}
{{- dict "names" $names | toJson }}
{{- end }}

{{- /* Component of a reward model: its verifier's name in the letters that Kubernetes takes. */ -}}
{{- define "rollcall.rewardModel" -}}
reward-model-{{ . | replace "_" "-" }}
{{- end }}

{{- /* The run's configuration with what the chart knows. */ -}}
{{- define "rollcall.config" -}}
{{- $run := tpl (toYaml .Values.run) . | fromYaml }}
{{- if hasKey $run "Error" }}{{ fail (printf "run: %s" $run.Error) }}{{ end }}
{{- $generators := list }}
{{- $host := include "rollcall.host" (list . "generator") }}
{{- range $i := until (int (max .Values.generator.replicas .Values.generator.maxReplicas)) }}
{{- $generators = append $generators (printf "%s-%d.%s:7401" (include "rollcall.name" (list $ "generator")) $i $host) }}
{{- end }}
{{- $references := list }}
{{- if .Values.reference.enabled }}
{{- $referenceHost := include "rollcall.host" (list . "reference") }}
{{- range $i := until (int .Values.reference.replicas) }}
{{- $references = append $references (printf "%s-%d.%s:7403" (include "rollcall.name" (list $ "reference")) $i $referenceHost) }}
{{- end }}
{{- end }}
{{- $metrics := "0.0.0.0:9090" }}
{{- $models := (include "rollcall.rewardModels" . | fromJson).names }}
{{- range $verifier := ($run.reward | default dict).verifiers }}
{{- if has $verifier.name $models }}
{{- $host := include "rollcall.host" (list $ (include "rollcall.rewardModel" $verifier.name)) }}
{{- $_ := set $verifier "reward_model" (merge (dict "listen" "0.0.0.0:7404" "metrics_listen" $metrics "address" (printf "%s:7404" $host)) $verifier.reward_model) }}
{{- end }}
{{- end }}
{{- $own := dict
  "learner" (dict "listen" "0.0.0.0:7400" "metrics_listen" $metrics)
  "generator" (dict "listen" "0.0.0.0:7401" "metrics_listen" $metrics "addresses" $generators "wait_for_weights" true)
  "reward" (dict "listen" "0.0.0.0:7402" "metrics_listen" $metrics "address" (printf "%s:7402" (include "rollcall.host" (list . "reward"))))
  "reference" (dict "listen" "0.0.0.0:7403" "metrics_listen" $metrics "addresses" $references)
  "security" (dict "admin_listen" "0.0.0.0:7410") }}
{{- if gt (int (include "rollcall.ranks" .)) 1 }}
{{- $_ := set $own.learner "rendezvous" (printf "%s:7405" (include "rollcall.learnerHost" .)) }}
{{- end }}
{{- if .Values.tls.enabled }}
{{- $tls := dict "certificate" "/etc/rollcall/tls/tls.crt" "private_key" "/etc/rollcall/tls/tls.key" "trust_roots" "/etc/rollcall/tls/ca.crt" "trust_domain" .Values.tls.trustDomain }}
{{- $_ := merge $own.security $tls }}
{{- else }}
{{- $_ := set $own.security "insecure" true }}
{{- end }}
{{- toYaml (mergeOverwrite $run $own) }}
{{- end }}

{{- define "rollcall.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "rollcall.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- /* Everything of a pod that is scheduled: (list $ values) */ -}}
{{- define "rollcall.placement" -}}
{{- $values := index . 1 }}
{{- with $values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{- /*
The pod template of one of our services: a dict of
  root       $
  component  of the labels: "learner", "reward-model-quality"
  port       of gRPC
  section    of the values; the component where it is not given
  binary     the same
  args       beyond the configuration
  role       whose certificate it has; the component where it is not given
Those with GPUs hold them the same way.
*/ -}}
{{- define "rollcall.podTemplate" -}}
{{- $root := .root }}{{ $component := .component }}{{ $port := .port }}
{{- $values := index $root.Values (.section | default $component) }}
{{- $role := .role | default $component }}
{{- $ranks := and (eq $component "learner") (gt (int (include "rollcall.ranks" $root)) 1) }}
metadata:
  labels:
    {{- include "rollcall.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ $component }}
    {{- with $root.Values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    checksum/config: {{ include "rollcall.config" $root | sha256sum }}
    {{- with $root.Values.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  serviceAccountName: {{ include "rollcall.name" (list $root $component) }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  securityContext: {{- include "rollcall.podSecurity" $root | nindent 4 }}
  {{- include "rollcall.placement" (list $root $values) | nindent 2 }}
  {{- if and (eq $component "generator") $values.topologySpread }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector: {matchLabels: {{ include "rollcall.selectorFlow" (list $root $component) }}}
  {{- end }}
  {{- if and (ne $component "reward") $root.Values.models.initContainers }}
  initContainers: {{- toYaml $root.Values.models.initContainers | nindent 4 }}
  {{- end }}
  containers:
    - name: {{ $component }}
      image: {{ include "rollcall.image" $root }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      command: [rollcall-{{ .binary | default $component }}]
      args: {{ concat (list "--config" "/etc/rollcall/run.yaml") (.args | default list) | toJson }}
      env:
        - {name: HOME, value: /tmp}
        {{- if $ranks }}
        # The pod's ordinal.
        - {name: ROLLCALL_RANK, valueFrom: {fieldRef: {fieldPath: "metadata.labels['apps.kubernetes.io/pod-index']"}}}
        {{- end }}
        {{- if gt (int ($values.gpus | default 0)) 0 }}
        {{- with $root.Values.ncclEnv }}{{ toYaml . | nindent 8 }}{{ end }}
        {{- end }}
        {{- with $values.env }}{{ toYaml . | nindent 8 }}{{ end }}
      ports:
        - {name: grpc, containerPort: {{ $port }}}
        - {name: admin, containerPort: 7410}
        - {name: metrics, containerPort: 9090}
        {{- if $ranks }}
        - {name: rendezvous, containerPort: 7405}
        {{- end }}
      # Live: it answers, also while it loads, and waiting work has not stood still for rpc.progress_timeout. Ready: it
      # serves; a generator once it holds weights, a learner once its model is loaded.
      startupProbe: {grpc: {port: 7410, service: live}, periodSeconds: 2, failureThreshold: 60}
      livenessProbe: {grpc: {port: 7410, service: live}, periodSeconds: 10, timeoutSeconds: 10, failureThreshold: 3}
      readinessProbe: {grpc: {port: 7410, service: ready}, periodSeconds: 5, timeoutSeconds: 5}
      # Endpoints forget the pod before it stops taking calls.
      lifecycle: {preStop: {exec: {command: [sleep, "5"]}}}
      resources: {{- include "rollcall.resources" $values | nindent 8 }}
      securityContext: {{- include "rollcall.containerSecurity" $root | nindent 8 }}
      volumeMounts:
        - {name: config, mountPath: /etc/rollcall/run.yaml, subPath: run.yaml, readOnly: true}
        {{- if $root.Values.tls.enabled }}
        - {name: tls, mountPath: /etc/rollcall/tls, readOnly: true}
        {{- end }}
        - {name: tmp, mountPath: /tmp}
        {{- if ne $component "reward" }}
        - {name: models, mountPath: /models, readOnly: true}
        {{- end }}
        {{- if eq $component "learner" }}
        - {name: runs, mountPath: /runs}
        {{- end }}
        {{- if gt (int ($values.gpus | default 0)) 0 }}
        - {name: shm, mountPath: /dev/shm}
        {{- end }}
    {{- if and (eq $component "learner") $root.Values.runs.uploader }}
    {{- $uploader := deepCopy $root.Values.runs.uploader }}
    {{- $_ := set $uploader "volumeMounts" (append ($uploader.volumeMounts | default list) (dict "name" "runs" "mountPath" "/runs" "readOnly" true)) }}
    {{- $_ := set $uploader "securityContext" (include "rollcall.containerSecurity" $root | fromYaml) }}
    - {{- toYaml $uploader | nindent 6 }}
    {{- end }}
  volumes:
    - {name: config, configMap: {name: {{ include "rollcall.name" (list $root "config") }}}}
    {{- if $root.Values.tls.enabled }}
    - {name: tls, secret: {secretName: {{ include "rollcall.tlsSecret" (list $root $role) }}, defaultMode: 0440}}
    {{- end }}
    - {name: tmp, emptyDir: {}}
    {{- if $ranks }}
    - {name: runs, persistentVolumeClaim: {claimName: {{ include "rollcall.name" (list $root "runs") }}}}
    {{- end }}
    {{- if ne $component "reward" }}
    - name: models
      {{- if $root.Values.models.volume }}{{ toYaml $root.Values.models.volume | nindent 6 }}{{ else }}
      emptyDir: {}
      {{- end }}
    {{- end }}
    {{- if gt (int ($values.gpus | default 0)) 0 }}
    - {name: shm, emptyDir: {medium: Memory, sizeLimit: {{ $root.Values.shmSize }}}}
    {{- end }}
{{- end }}

{{- /* requests and limits, with the GPUs */ -}}
{{- define "rollcall.resources" -}}
{{- $resources := deepCopy (.resources | default dict) }}
{{- if gt (int (.gpus | default 0)) 0 }}
{{- $limits := merge (dict "nvidia.com/gpu" .gpus) ($resources.limits | default dict) }}
{{- $_ := set $resources "limits" $limits }}
{{- end }}
{{- toYaml $resources }}
{{- end }}
