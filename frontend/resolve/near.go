package resolve

import (
	"cmp"
	"slices"

	"github.com/agext/levenshtein"
)

// nearest bounds how many names an error lists.
const nearest = 5

// near returns the names that may be meant by key, the nearest first.
func near(key string, names []string) []string {
	names = slices.Clone(names)
	slices.SortStableFunc(names, func(a, b string) int {
		return cmp.Compare(levenshtein.Distance(Short(key), Short(a), nil), levenshtein.Distance(Short(key), Short(b), nil))
	})
	return short(names[:min(len(names), nearest)])
}
