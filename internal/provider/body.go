package provider

// failureOf reads the body of an error, or a stream that ends in one.
func failureOf(body []byte) failure { return failure{} }
