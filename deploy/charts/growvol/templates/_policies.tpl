{{- /* Expressions (CEL) of the admission policies for changes of a Node or a pod. */ -}}

{{- /* The change leaves labels, finalizers, owners and spec (without the taints) as they are. */ -}}
{{- define "growvol.sameNode" -}}
object.metadata.?labels.orValue({}) == oldObject.metadata.?labels.orValue({}) &&
object.metadata.?finalizers.orValue([]) == oldObject.metadata.?finalizers.orValue([]) &&
object.metadata.?ownerReferences.orValue([]) == oldObject.metadata.?ownerReferences.orValue([]) &&
object.spec.?unschedulable.orValue(false) == oldObject.spec.?unschedulable.orValue(false) &&
object.spec.?providerID.orValue("") == oldObject.spec.?providerID.orValue("") &&
object.spec.?podCIDRs.orValue([]) == oldObject.spec.?podCIDRs.orValue([])
{{- end }}

{{- /* The change leaves labels, finalizers, owners and spec of a pod as they are. */ -}}
{{- define "growvol.samePod" -}}
object.metadata.?labels.orValue({}) == oldObject.metadata.?labels.orValue({}) &&
object.metadata.?finalizers.orValue([]) == oldObject.metadata.?finalizers.orValue([]) &&
object.metadata.?ownerReferences.orValue([]) == oldObject.metadata.?ownerReferences.orValue([]) &&
object.spec == oldObject.spec
{{- end }}

{{- /* The change leaves all annotations but that of the key as they are. */ -}}
{{- define "growvol.onlyAnnotation" -}}
object.metadata.?annotations.orValue({}).all(k, k == "{{ . }}" ||
oldObject.metadata.?annotations[?k].orValue("") == object.metadata.annotations[k] &&
k in oldObject.metadata.?annotations.orValue({})) &&
oldObject.metadata.?annotations.orValue({}).all(k, k == "{{ . }}" || k in object.metadata.?annotations.orValue({}))
{{- end }}
