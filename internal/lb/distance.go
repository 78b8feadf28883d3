package lb

// EditDistance is the number of single-byte edits between two names (Levenshtein);
// of longer ones than 64 bytes, which no name of ours is, it only says that it is large.
func EditDistance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return len(a) + len(b) // no name of ours is so long
	}
	// One row of the usual matrix is enough: diagonal keeps the value that the
	// row held before it was overwritten.
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
